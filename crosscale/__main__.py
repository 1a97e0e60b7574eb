"""`python -m crosscale` is the `crosscale` command."""

import sys

from crosscale.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
