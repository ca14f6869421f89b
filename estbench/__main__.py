"""``python -m estbench``: the command line."""

import sys

from estbench.cli import main

if __name__ == "__main__":
    sys.exit(main())
