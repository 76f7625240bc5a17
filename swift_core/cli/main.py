"""Entry of the command line: choose the command, and turn errors into one sentence.

Exit status 0 means done, 2 means refused or stopped, with the reason on standard error.
"""

import sys
from collections.abc import Sequence

from ..errors import SwiftError
from .arguments import make_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status."""
    parser = make_parser()
    try:
        options = parser.parse_args(arguments)
        return options.run(options)
    except SwiftError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        # A bar may have been cut short in the middle of its line.
        sys.stderr.write("\n")
        return _refuse("stopped; no unfinished file is left.")
    except BrokenPipeError:
        # The reader of our output went away (head, a pager): nothing is left to say.
        sys.stderr.close()
        return 2


def _refuse(sentence: str) -> int:
    sys.stderr.write(f"swift_core: {sentence}\n")
    return 2
