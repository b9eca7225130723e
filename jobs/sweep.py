"""`steper sweep` as a Ray job: try several values of σ, learning rates and other settings of the training.

    ray job submit --working-dir . -- python jobs/sweep.py --config jobs/configs/toy.yaml

Options are those of `steper sweep`.
"""

import sys

from steper_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
