"""`steper demo` as a Ray job: all of it on the toy world.

    ray job submit --working-dir . -- python jobs/demo.py --config jobs/configs/toy.yaml

Options are those of `steper demo`.
"""

import sys

from steper_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
