"""Builds the corpus and its index as a Ray job.

    ray job submit --working-dir . -- python jobs/index.py --config jobs/configs/toy.yaml \\
        --set run.dir=/shared/runs/toy

Options are those of `steper index`.
"""

import sys

from steper_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["index", *sys.argv[1:]]))
