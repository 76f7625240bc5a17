"""Entry of the command line: choose the command, and turn errors into one sentence.

Exit status 0 means done, 2 means refused or stopped, with the reason on standard error.
"""

from collections.abc import Sequence

from ..errors import SwiftError
from ..shortage import is_shortage
from .arguments import make_parser
from .speech import complain


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status."""
    parser = make_parser()
    try:
        options = parser.parse_args(arguments)
        return options.run(options)
    except SwiftError as error:
        return _refuse(str(error))
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return _refuse(
            "not enough memory for this size; give less with --memory, or make --size smaller."
        )
    except OSError as error:
        # Whatever the system refuses: a name too long, a folder not ours, a disk that is full.
        where = f"{error.filename}: " if error.filename else ""
        return _refuse(f"{where}{error.strerror or error}; choose another place or name.")
    except KeyboardInterrupt:
        # A bar may have been cut short in the middle of its line.
        return _refuse("stopped; no unfinished file is left.", new_line=True)


def _is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Tell a want of memory from a fault of ours; on the CPU PyTorch says it in words only."""
    if isinstance(error, MemoryError) or is_shortage(error):
        return True
    return "can't allocate memory" in str(error)


def _refuse(sentence: str, *, new_line: bool = False) -> int:
    complain(("\n" if new_line else "") + f"swift_core: {sentence}")
    return 2
