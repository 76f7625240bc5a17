"""Host memory that is locked in place, so that a device can fetch it by itself.

Locking takes longer than filling, about half a second for a GB, so what one model leaves the next
one takes.
"""

from .lanes import Lane
from .shapes import Tensor

_MOST_SPARE = 1.25
"""How much larger than needed a slab may be that is taken again."""


class Slabs:
    """Locked pieces of host memory.

    Args:
        most_nbytes: that may be locked in all; 0 locks nothing.
    """

    def __init__(self, most_nbytes: int) -> None:
        self._left = most_nbytes
        self._free: list[Tensor] = []

    def take(self, nbytes: int, lane: Lane) -> Tensor | None:
        """Give a locked piece of at least so many bytes; None where there may be no more."""
        fitting = [slab for slab in self._free if nbytes <= slab.nbytes <= _MOST_SPARE * nbytes]
        if fitting:
            slab = min(fitting, key=lambda one: one.nbytes)
            self._free = [one for one in self._free if one is not slab]
            return slab
        while self._free and nbytes > self._left:  # those of another size make room
            self._left += self._free.pop().nbytes
        if nbytes > self._left:
            return None
        try:
            slab = lane.pinnable(nbytes)
        except RuntimeError:  # the host has no more
            self._left = 0
            return None
        if not lane.pin(slab):
            self._left = 0
            return None
        self._left -= slab.nbytes
        return slab

    def clear(self) -> None:
        """Unlock what nobody has."""
        self._left += sum(slab.nbytes for slab in self._free)
        self._free.clear()

    def give_back(self, slab: Tensor) -> None:
        """Take a piece back that nothing reads any more."""
        self._free.append(slab)
