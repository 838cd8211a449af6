"""`python -m ttmpref ...`; see `ttmpref.cli`."""

import sys

from ttmpref.cli import main

if __name__ == "__main__":
    sys.exit(main())
