"""How bytes get to a device, or from it, beside its work: CUDA's streams, or plain copies.

Two laws order everything. A place is filled only after the work that read it is done; work reads a
place only after it is filled. Both are events on the device: the host waits for neither.
"""

import time
from typing import Any, Protocol, runtime_checkable

import torch

from .locked import lock, lockable
from .shapes import Tensor

Mark = Any
"""A moment in the work of one side, which the other can wait for; each lane has its own kind."""


@runtime_checkable
class Lane(Protocol):
    """A way for bytes to a device, or from it."""

    def pinnable(self, nbytes: int) -> Tensor:
        """Take host memory that may be locked."""
        ...

    def pin(self, slab: Tensor) -> bool:
        """Lock host memory in place so that the device can fetch it by itself; False if not."""
        ...

    def share(self, buffer: Tensor) -> None:
        """Keep a buffer's memory from others until copies are done, should it be let go of."""
        ...

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy, after whatever this lane does already; both stay there until it is done."""
        ...

    def after_work(self) -> Mark:
        """Mark the end of the work that has been ordered so far."""
        ...

    def after_copies(self) -> Mark:
        """Mark the end of the copies that have been ordered so far."""
        ...

    def hold_copies(self, mark: Mark) -> None:
        """Let the next copies wait for a moment in the work."""
        ...

    def hold_work(self, mark: Mark) -> None:
        """Let the next work wait for a moment in the copies."""
        ...

    def finish(self) -> None:
        """Wait until all copies that have been ordered are done."""
        ...

    def seconds(self) -> tuple[float, float]:
        """Tell how long copies took so far, and how long work waited for them."""
        ...


class DirectLane:
    """Copies that are done when the call returns: for the CPU."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def pinnable(self, nbytes: int) -> Tensor:
        """Take any."""
        return torch.empty(nbytes, dtype=torch.uint8)

    def pin(self, slab: Tensor) -> bool:  # noqa: ARG002 - nothing fetches by itself here
        """Lock nothing."""
        return False

    def share(self, buffer: Tensor) -> None:
        """Do nothing: copies are done when their call returns."""

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy now."""
        begin = time.perf_counter()
        target.copy_(source)
        self._seconds += time.perf_counter() - begin

    def after_work(self) -> Mark:
        """Mark nothing: work is done when its call returns."""
        return self

    def after_copies(self) -> Mark:
        """Mark nothing: copies are done when their call returns."""
        return self

    def hold_copies(self, mark: Mark) -> None:
        """Wait for nothing."""

    def hold_work(self, mark: Mark) -> None:
        """Wait for nothing."""

    def finish(self) -> None:
        """Wait for nothing."""

    def seconds(self) -> tuple[float, float]:
        """Tell the copies' time; work waited for all of it."""
        return self._seconds, self._seconds


class CudaLane:
    """Copies on a stream of their own.

    Args:
        is_timed: whether to take the times that ``seconds`` tells: two events for each copy.
    """

    def __init__(self, device: torch.device, *, is_timed: bool = True) -> None:
        self._device = device
        self._is_timed = is_timed
        self._stream = torch.cuda.Stream(device)
        self._copies: list[tuple[Any, Any]] = []
        self._waits: list[tuple[Any, Any]] = []

    def pinnable(self, nbytes: int) -> Tensor:
        """Take pages that are nobody else's."""
        return lockable(nbytes, self._device)

    def pin(self, slab: Tensor) -> bool:
        """Lock a slab's pages."""
        return lock(slab, self._device)

    def share(self, buffer: Tensor) -> None:
        """Tell the allocator that the copy stream uses it."""
        buffer.record_stream(self._stream)

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Order a copy."""
        with torch.cuda.stream(self._stream):
            begin = self._now(self._stream) if self._is_timed else None
            target.copy_(source, non_blocking=True)
            if self._is_timed:
                self._copies.append((begin, self._now(self._stream)))

    def after_work(self) -> Mark:
        """Mark the end of the current stream's work."""
        return self._now(torch.cuda.current_stream(self._device))

    def after_copies(self) -> Mark:
        """Mark the end of the copies."""
        return self._now(self._stream)

    def hold_copies(self, mark: Mark) -> None:
        """Let the copy stream wait."""
        self._stream.wait_event(mark)

    def hold_work(self, mark: Mark) -> None:
        """Let the current stream wait."""
        stream = torch.cuda.current_stream(self._device)
        begin = self._now(stream) if self._is_timed else None
        stream.wait_event(mark)
        if self._is_timed:
            self._waits.append((begin, self._now(stream)))

    def finish(self) -> None:
        """Wait for the copy stream."""
        self._stream.synchronize()

    def seconds(self) -> tuple[float, float]:
        """Wait for everything, and add up."""
        torch.cuda.synchronize(self._device)

        def total(spans: list[tuple[Any, Any]]) -> float:
            return sum(begin.elapsed_time(end) for begin, end in spans) / 1000

        return total(self._copies), total(self._waits)

    def _now(self, stream: Any) -> Any:
        event: Any = torch.cuda.Event(enable_timing=self._is_timed)
        event.record(stream)
        return event


def open_lane(device: torch.device, *, is_timed: bool = True) -> Lane:
    """Give a way to a device; see ``CudaLane``."""
    return CudaLane(device, is_timed=is_timed) if device.type == "cuda" else DirectLane()
