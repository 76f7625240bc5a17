"""Run the command line: ``python -m swift_core``."""

import sys


def _run() -> int:
    # Importing takes a second or two, in which a run can be stopped as well.
    try:
        from .cli.main import main
    except KeyboardInterrupt:
        sys.stderr.write("\nswift_core: stopped before it began.\n")
        return 2
    return main()


if __name__ == "__main__":
    sys.exit(_run())
