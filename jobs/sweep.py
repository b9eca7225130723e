"""Sweeps over settings of the training as a Ray job.

    ray job submit --working-dir . -- python jobs/sweep.py --config jobs/configs/toy.yaml \\
        --set run.dir=/shared/runs/toy

Options are those of `steper sweep`.
"""

import sys

from steper_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
