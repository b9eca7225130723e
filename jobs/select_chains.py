"""`steper select` as a Ray job: select again among the teacher's chains, without the teacher.

    ray job submit --working-dir . -- python jobs/select_chains.py --config jobs/configs/toy.yaml

Options are those of `steper select`.

A script `select.py` would hide Python's module of that name from its neighbours.
"""

import sys

from steper_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["select", *sys.argv[1:]]))
