"""`steper index` as a Ray job: passages → a Lance dataset with its BM25 index.

    ray job submit --working-dir . -- python jobs/index.py --config jobs/configs/toy.yaml

Options are those of `steper index`.
"""

import sys

from steper_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["index", *sys.argv[1:]]))
