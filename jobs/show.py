"""`steper show` as a Ray job: print one chain so that a person can judge it.

    ray job submit --working-dir . -- python jobs/show.py --config jobs/configs/toy.yaml

Options are those of `steper show`.
"""

import sys

from steper_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["show", *sys.argv[1:]]))
