"""`steper serve` as a Ray job: serve the student over HTTP until Ctrl-C.

    ray job submit --working-dir . -- python jobs/serve.py --config jobs/configs/toy.yaml

Options are those of `steper serve`.
"""

import sys

from steper_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
