"""`python -m steper_ray`: the same as `steper`."""

import sys

from steper_ray.cli import main

if __name__ == "__main__":
    sys.exit(main())
