"""What the core warns of in a run: a second try that cost time, an attention that was not used."""

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager

MOST_WARNINGS, MOST_LETTERS = 3, 160


class _Listener(logging.Handler):
    """Print warnings at once, and keep them: a run that fails leaves the printed ones."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take one."""
        words = record.getMessage()
        self.warnings.append(words)
        print(f"warning: {words}", flush=True)


@contextmanager
def heard() -> Generator[list[str], None, None]:
    """Collect what the core warns of."""
    listener, logger = _Listener(), logging.getLogger("swift_core")
    logger.addHandler(listener)
    try:
        yield listener.warnings
    finally:
        logger.removeHandler(listener)


def in_short(warnings: Sequence[str]) -> str:
    """Say the first of them, shortened, and how many more there were."""
    times = {words: warnings.count(words) for words in warnings}
    said = [
        words[:MOST_LETTERS] + (f" ({count} times)" if count > 1 else "")
        for words, count in list(times.items())[:MOST_WARNINGS]
    ]
    if len(times) > MOST_WARNINGS:
        said.append(f"and {len(times) - MOST_WARNINGS} more")
    return "; ".join(said)
