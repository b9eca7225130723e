"""`steper check` as a Ray job: say what would stop a run: storage, packages, GPUs, models, disks, port.

    ray job submit --working-dir . -- python jobs/check.py --config jobs/configs/toy.yaml

Options are those of `steper check`.
"""

import sys

from steper_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["check", *sys.argv[1:]]))
