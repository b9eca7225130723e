"""`steper build` as a Ray job: questions → the teacher's chains → step-wise examples.

    ray job submit --working-dir . -- python jobs/build.py --config jobs/configs/toy.yaml

Options are those of `steper build`.
"""

import sys

from steper_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["build", *sys.argv[1:]]))
