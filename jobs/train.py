"""`steper train` as a Ray job: step-wise examples → a trained student.

    ray job submit --working-dir . -- python jobs/train.py --config jobs/configs/toy.yaml

Options are those of `steper train`.
"""

import sys

from steper_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
