"""`steper prompt` as a Ray job: print the exact prompt of each step of a question, with its tokens.

    ray job submit --working-dir . -- python jobs/prompt.py --config jobs/configs/toy.yaml

Options are those of `steper prompt`.
"""

import sys

from steper_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["prompt", *sys.argv[1:]]))
