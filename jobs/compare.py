"""Compares ways of learning from the same chains as a Ray job.

    ray job submit --working-dir . -- python jobs/compare.py --config jobs/configs/toy.yaml \\
        --set run.dir=/shared/runs/toy

Options are those of `steper compare`.
"""

import sys

from steper_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
