"""`steper toy` as a Ray job: invent a toy world: passages, questions, tiny models.

    ray job submit --working-dir . -- python jobs/toy.py --config jobs/configs/toy.yaml

Options are those of `steper toy`.
"""

import sys

from steper_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["toy", *sys.argv[1:]]))
