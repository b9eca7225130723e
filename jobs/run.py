"""`steper run` as a Ray job: several stages in order without what is up to date: index..eval, or a..b.

    ray job submit --working-dir . -- python jobs/run.py --config jobs/configs/toy.yaml

Options are those of `steper run`.
"""

import sys

from steper_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
