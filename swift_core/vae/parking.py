"""Causal state that waits in host memory: a tail comes when it is wanted, and goes when it is made.

In every chunk the convolutions of a VAE read and make their tails in the same order. So while one
of them works, the next one's tail is on its way to the device, and the last one's on its way back;
of all others nothing is there.
"""

from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass

import torch

from ..lanes import Lane, Mark, open_lane
from ..locked import most_locked
from ..shapes import Tensor
from ..slabs import Slabs


@dataclass
class _Berth:
    """A tail's place in host memory, taken once; of one without content only its size is known.

    Attributes:
        values: the tail.
        slab: the memory that it lies in; what is locked is so for as long as this is held.
        filled: when the copy to it is done.
    """

    size: torch.Size
    dtype: torch.dtype
    values: Tensor | None = None
    slab: Tensor | None = None
    filled: Mark = None

    @property
    def nbytes(self) -> int:
        return self.size.numel() * self.dtype.itemsize


@dataclass(frozen=True)
class _Passing:
    """A tail on the device that a copy reads or writes, and when that is done."""

    key: Hashable
    tail: Tensor
    done: Mark


class Parking:
    """Keep tails in host memory.

    What a copy uses on the device is held here until work has been told to wait for the copy: from
    then on PyTorch may give the memory to later work.
    """

    def __init__(self) -> None:
        self._berths: dict[Hashable, _Berth] = {}
        self._after: dict[Hashable, Hashable] = {}
        self._lanes: tuple[Lane, Lane] | None = None
        self._slabs: Slabs | None = None
        self._coming: _Passing | None = None
        self._going: _Passing | None = None

    def __contains__(self, key: Hashable) -> bool:
        return key in self._berths

    @property
    def nbytes(self) -> int:
        """Host memory that is taken."""
        return sum(berth.nbytes for berth in self._berths.values())

    def take(self, key: Hashable, device: torch.device) -> Tensor:
        """Give a tail on the device, and send for the one that was kept after it."""
        inward, _ = self._open(device)
        if self._coming is not None:
            inward.hold_work(self._coming.done)
        coming = self._coming
        if coming is None or coming.key != key:
            coming = self._fetch(key, device)
            inward.hold_work(coming.done)
        following = self._after[key]
        self._coming = None if following == key else self._fetch(following, device)
        return coming.tail

    def keep(self, key: Hashable, tail: Tensor) -> None:
        """Bring a tail to its place, in the place of what was there."""
        _, outward = self._open(tail.device)
        if self._going is not None:
            outward.hold_work(self._going.done)
        berth = self._berths.get(key)
        if berth is None:
            berth = self._make_berth(key, tail)
        if berth.values is not None:
            outward.hold_copies(outward.after_work())
            outward.copy(berth.values, tail)
            berth.filled = outward.after_copies()
        self._going = _Passing(key, tail, berth.filled)

    def clone(self) -> "Parking":
        """Copy all tails, to memory that is not locked."""
        self._finish()
        twin = Parking()
        twin._after = dict(self._after)
        for key, berth in self._berths.items():
            values = None if berth.values is None else berth.values.clone()
            twin._berths[key] = _Berth(berth.size, berth.dtype, values)
        return twin

    def _fetch(self, key: Hashable, device: torch.device) -> _Passing:
        berth, (inward, _) = self._berths[key], self._open(device)
        if berth.values is None:
            return _Passing(key, torch.empty(berth.size, dtype=berth.dtype, device=device), None)
        tail = torch.empty_like(berth.values, device=device)
        inward.hold_copies(inward.after_work())  # whoever had this memory before may still use it
        if berth.filled is not None:
            inward.hold_copies(berth.filled)
        inward.copy(tail, berth.values)
        return _Passing(key, tail, inward.after_copies())

    def _make_berth(self, key: Hashable, tail: Tensor) -> _Berth:
        """Take a place for a tail, behind all others."""
        first = next(iter(self._berths), key)
        last = next(reversed(self._berths), key)
        self._after[last], self._after[key] = key, first
        berth = self._berths[key] = _Berth(tail.shape, tail.dtype)
        if tail.is_meta:
            return berth
        _, outward = self._open(tail.device)
        self._slabs = self._slabs or Slabs(most_locked())
        slab = self._slabs.take(tail.nbytes, outward)
        berth.slab = torch.empty(tail.nbytes, dtype=torch.uint8) if slab is None else slab
        strides = torch.empty_like(tail, device="meta").stride()
        flat = berth.slab[: tail.nbytes].view(tail.dtype)
        berth.values = flat.as_strided(tail.shape, strides)
        return berth

    def _open(self, device: torch.device) -> tuple[Lane, Lane]:
        """Give the ways to the device and back: a card goes both at once."""
        if self._lanes is None:
            inward, outward = (open_lane(device, is_timed=False) for _ in range(2))
            self._lanes = inward, outward
        return self._lanes

    def _finish(self) -> None:
        for lane in self._lanes or ():
            lane.finish()

    def __del__(self) -> None:
        # A run may be broken off while copies are on their way, and their memory goes with this.
        with suppress(RuntimeError):  # CUDA itself may be gone at the end of a process
            self._finish()


@dataclass(frozen=True, kw_only=True)
class Berths:
    """The tails of one part of a clip's state: see ``TailCache.part``."""

    parking: Parking
    part: int

    def __contains__(self, conv: Hashable) -> bool:
        return (self.part, conv) in self.parking

    def take(self, conv: Hashable, device: torch.device) -> Tensor:
        """Give a convolution's tail."""
        return self.parking.take((self.part, conv), device)

    def keep(self, conv: Hashable, tail: Tensor) -> None:
        """Bring a convolution's tail to its place."""
        self.parking.keep((self.part, conv), tail)
