"""Prints one chain from the cluster's storage, so that a person can judge it, as a Ray job.

    ray job submit --working-dir . -- python jobs/show.py --config jobs/configs/toy.yaml \\
        --set run.dir=/shared/runs/toy

with the id of a chain or of a question at its end. Options are those of `steper show`.
"""

import sys

from steper_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["show", *sys.argv[1:]]))
