"""Files read into the system's cache before they are wanted, while something else computes.

Weights are mapped, so the first look at a page waits for the disk. A thread that has read the file
before makes that wait a copy within memory.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import TypeVar

from .host import free_host_nbytes

Item = TypeVar("Item")

_PIECE = 2**24
SHARE_OF_FREE = 0.8
"""Of the host memory that is free, what files may fill: beyond, they would drive each other out."""

_log = logging.getLogger(__name__)


class ReadAhead:
    """Reads some files in a thread, until it is done or told to stop."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._stop = Event()
        self.read_nbytes = 0
        self._thread = Thread(target=self._read, name="read ahead", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Read no more."""
        self._stop.set()
        self._thread.join()

    def wait(self) -> None:
        """Wait until all is read."""
        self._thread.join()

    def _read(self) -> None:
        # A file that cannot be read is the business of whoever loads it.
        with suppress(OSError):
            sizes = [path.stat().st_size for path in self._paths]
            if sum(sizes) > SHARE_OF_FREE * free_host_nbytes():
                _log.info("too little host memory to read %.1f GB ahead", sum(sizes) / 1e9)
                return
            piece = memoryview(bytearray(_PIECE))
            for path in self._paths:
                self._read_file(path, piece)

    def _read_file(self, path: Path, piece: memoryview) -> None:
        with path.open("rb", buffering=0) as file:
            while not self._stop.is_set():
                count = file.readinto(piece)
                if not count:
                    return
                self.read_nbytes += count


class ReadingOrder:
    """Keeps one group of files ahead: when one is loaded, the next one is read.

    Args:
        groups: the files of each model, in the order of their turns.
    """

    def __init__(self, groups: Iterable[tuple[Path, ...]]) -> None:
        self._groups = [group for group in groups if group]
        self._reading: ReadAhead | None = None

    def loaded(self, group: tuple[Path, ...]) -> None:
        """Take note that a model is there, and begin to read the next one."""
        if group not in self._groups:
            return
        self._groups = self._groups[self._groups.index(group) + 1 :]
        self.stop()
        if self._groups and self._groups[0] != group:
            self._reading = ReadAhead(self._groups[0])

    def beside(self, items: Iterator[Item]) -> Iterator[Item]:
        """Pass items on, and read no more when they have ended, however they did."""
        try:
            yield from items
        finally:
            self.stop()

    def stop(self) -> None:
        """Read no more for now."""
        if self._reading is not None:
            self._reading.stop()
            self._reading = None
