"""What the command line says, to whoever listens.

A standard stream may be closed, full, gone, or unable to write a letter. None of that is a reason
to lose a run or to show a traceback.
"""

import os
import sys
from typing import Any

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(10), *range(11, 32), *range(127, 160))}
"""What a file's name may hold and a terminal would obey; only the end of a line is ours."""


def say(text: str) -> None:
    """Write a line to standard output."""
    _write(sys.stdout, text)


def complain(text: str) -> None:
    """Write a line to standard error."""
    _write(sys.stderr, text)


def _write(stream: Any, text: str) -> None:
    if stream is None:  # was closed before the program began
        return
    encoding = stream.encoding or "utf-8"
    line = f"{text.translate(_CONTROLS)}\n".encode(encoding, "backslashreplace").decode(encoding)
    try:
        stream.write(line)
        stream.flush()
    except OSError:
        # Nobody reads this any more, or the disk is full. What Python still holds back would fail
        # once more when it ends, so it goes nowhere.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
