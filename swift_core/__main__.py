"""Run the command line: ``python -m swift_core``."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
