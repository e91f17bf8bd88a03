"""`python -m pipeinfer_cli`."""

import sys

from pipeinfer_cli.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
