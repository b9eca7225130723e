"""`steper plan` as a Ray job: predict time, tokens and size of a build from a small sample.

    ray job submit --working-dir . -- python jobs/plan.py --config jobs/configs/toy.yaml

Options are those of `steper plan`.
"""

import sys

from steper_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["plan", *sys.argv[1:]]))
