"""`steper eval` as a Ray job: compare models on held-out questions, write report.html.

    ray job submit --working-dir . -- python jobs/eval.py --config jobs/configs/toy.yaml

Options are those of `steper eval`.
"""

import sys

from steper_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
