"""A writer that works beside whoever makes the frames."""

from contextlib import suppress
from queue import Full, Queue
from threading import Thread
from types import TracebackType

from ..shapes import Float, Tensor
from .video_write import VideoWriter

_PATIENCE = 0.1
"""Seconds between looks at the thread: a wait without end would not hear Ctrl-C on Windows."""

MOST_WAITING = 2
"""Chunks that may wait for the encoder: more would only take memory."""


class BackgroundWriter:
    """Encode frames in a thread of its own; the file is the same as without.

    Use it in a ``with`` statement. What goes wrong while writing is raised by the next ``write``,
    or at the end of the block.

    Args:
        writer: not yet entered.
    """

    def __init__(self, writer: VideoWriter) -> None:
        self._writer = writer
        self._waiting: Queue[Tensor | None] = Queue(MOST_WAITING)
        self._failed: BaseException | None = None
        self._thread = Thread(target=self._work, name="video writer", daemon=True)

    def __enter__(self) -> "BackgroundWriter":
        self._writer.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and self._failed is None:
            self._failed = error  # what waits need not be written any more
        try:
            self._finish()
        except BaseException as stopped:  # noqa: BLE001 - Ctrl-C while what waits is encoded
            self._failed = stopped
            self._finish()
        if error is None and self._failed is not None:
            error, kind, trace = self._failed, type(self._failed), self._failed.__traceback__
            self._writer.__exit__(kind, error, trace)
            raise error
        self._writer.__exit__(kind, error, trace)

    def write(self, frames: Float[Tensor, "p h w 3"]) -> None:
        """Hand frames over; they must not be changed afterwards.

        Raises:
            MediaError: see ``VideoWriter.write``; of these frames or of earlier ones.
            OutputError: likewise.
        """
        if self._failed is not None:
            raise self._failed
        self._waiting.put(frames)

    def _finish(self) -> None:
        """Wait until the thread has ended; it forgets what waits once something has failed."""
        while self._thread.is_alive():
            with suppress(Full):
                self._waiting.put(None, timeout=_PATIENCE)
            self._thread.join(_PATIENCE)

    def _work(self) -> None:
        while (frames := self._waiting.get()) is not None:
            if self._failed is not None:
                continue  # so that nobody waits at a full queue
            try:
                self._writer.write(frames)
            except BaseException as error:  # noqa: BLE001 - raised where frames come from
                self._failed = error
