"""`steper compare` as a Ray job: train the student in several ways and test which learns best.

    ray job submit --working-dir . -- python jobs/compare.py --config jobs/configs/toy.yaml

Options are those of `steper compare`.
"""

import sys

from steper_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
