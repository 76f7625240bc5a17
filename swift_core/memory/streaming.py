"""A DiT whose blocks pass through the device: some stay, the others come in turn, none goes back.

Host memory keeps every block as it was loaded, mapped from its file where it can be. A streamed
block's weights lie in a slot only while it works; then they are forgotten, never copied back.
While one block works the next one arrives, and behind the last one comes the next pass's first.
The arithmetic is the same with every residency, bit for bit.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import torch

from ..lanes import Lane, Mark, open_lane
from ..model.blocks import DiTBlock
from ..model.dit import WanDiT
from ..shortage import attempt
from ..slabs import Slabs
from .host_block import HostBlock, read_block
from .residency import SLOTS, Residency

_log = logging.getLogger(__name__)

Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class StreamReport:
    """What streaming took so far.

    Attributes:
        copied_nbytes: to the device, in all.
        copy_seconds: how long the copies took.
        waited_seconds: how long work waited for them.
    """

    copied_nbytes: int
    copy_seconds: float
    waited_seconds: float

    @property
    def hidden_share(self) -> float:
        """Tell the share of the copies' time that work went on in; 1 if there were none."""
        if not self.copy_seconds:
            return 1.0
        return max(0.0, 1 - self.waited_seconds / self.copy_seconds)

    def as_data(self) -> dict[str, int | float]:
        """Give it as plain data, for JSON."""
        return {
            "copied_nbytes": self.copied_nbytes,
            "copy_seconds": self.copy_seconds,
            "waited_seconds": self.waited_seconds,
            "hidden_share": self.hidden_share,
        }

    def describe(self) -> str:
        """Say it in words."""
        return (
            f"{self.copied_nbytes / 1e9:.1f} GB to the device in {self.copy_seconds:.2f} s, "
            f"{self.hidden_share:.0%} of it hidden behind work"
        )


class _Slot:
    """Device memory for one block at a time."""

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self.buffer = torch.empty(nbytes, dtype=torch.uint8, device=device)
        self.held: int | None = None
        self.filled: Mark = None
        self.free: Mark = None


class BlockStream:
    """Hand out a DiT's blocks in order, each with its weights on the device.

    Args:
        blocks: of one DiT, on the CPU; their weights are looked after from now on.
        residency: which of them stay on the device.
        slabs: locked host memory for faster copies, as far as it goes.
    """

    def __init__(
        self,
        blocks: Sequence[DiTBlock],
        residency: Residency,
        *,
        device: torch.device,
        slabs: Slabs,
    ) -> None:
        self._blocks = blocks
        self._device = device
        self._slabs = slabs
        self._lane: Lane = open_lane(device)
        self._host = [read_block(block, device) for block in blocks]
        self._slots: list[_Slot] = []
        self._copied_nbytes = 0
        self.residency = residency
        self._settle()

    def walk(self) -> Iterator[DiTBlock]:
        """Give each block in turn, ready to work until the next one is asked for."""
        order = self.residency.streamed
        place = {index: at for at, index in enumerate(order)}
        wanted: tuple[int, _Slot] | None = None
        for index, block in enumerate(self._blocks):
            host, slot = self._host[index], None
            if index in place:
                slot = self._bring(index)
                host.point_at(host.views(slot.buffer))
            try:
                yield block
            finally:
                if slot is not None:
                    host.go_home()
                    slot.free = self._lane.after_work()
            # Only now, beside this block's work, comes what the one before has left room for: from
            # memory that is not locked, a copy holds up the host until that one is done.
            if wanted is not None:
                self._fetch(*wanted)
                wanted = None
            if slot is not None and len(order) > SLOTS:
                wanted = order[(place[index] + SLOTS) % len(order)], slot
        if wanted is not None:
            self._fetch(*wanted)

    def shrink(self) -> bool:
        """Let half of the resident blocks be streamed from now on; False if there are none."""
        if self.residency.resident == 0:
            return False
        self._leave_half()
        self._settle()
        return True

    def close(self) -> None:
        """End: weights are in host memory again; those in locked memory are gone with it."""
        self._lane.finish()
        self._slots.clear()
        for host in self._host:
            if host.slab is None:
                host.go_home()
            else:
                host.point_at([tensor.new_empty(0) for tensor in host.tensors])
                self._slabs.give_back(host.slab)
        self._host.clear()

    def report(self) -> StreamReport:
        """Tell what it took so far; waits for the device."""
        copies, waits = self._lane.seconds()
        return StreamReport(
            copied_nbytes=self._copied_nbytes, copy_seconds=copies, waited_seconds=waits
        )

    def _leave_half(self) -> None:
        """Have everything in host memory, and half as many blocks to stay on the device."""
        for host in self._host:
            host.go_home()
        self._lane.finish()
        self._slots.clear()
        self.residency = replace(self.residency, resident=self.residency.resident // 2)

    def _settle(self) -> None:
        """Bring the blocks that stay, or half of them if there is no memory for all, and so on."""
        while (shortage := attempt(self._bring_first).shortage) is not None:
            if self.residency.resident == 0:
                raise shortage
            self._leave_half()
            _log.warning("out of memory: beginning with %s", self.residency.describe())

    def _bring_first(self) -> None:
        """Bring the blocks that stay, and the first of those that pass."""
        streamed = self.residency.streamed
        for index, host in enumerate(self._host):
            if index not in streamed:
                host.point_at([tensor.to(self._device) for tensor in host.tensors])
        for index in streamed:
            self._host[index] = self._pinned(self._host[index])
        largest = max((self._host[index].nbytes for index in streamed), default=0)
        for index in streamed[:SLOTS]:
            slot = _Slot(largest, self._device)
            self._lane.share(slot.buffer)
            slot.free = self._lane.after_work()  # whoever had this memory before may still use it
            self._slots.append(slot)
            self._fetch(index, slot)

    def _pinned(self, host: HostBlock) -> HostBlock:
        """Copy a block's weights into one locked piece of host memory, if there may be one more."""
        slab = None if host.slab is not None else self._slabs.take(host.nbytes, self._lane)
        if slab is None:
            return host
        views = host.views(slab)
        for view, tensor in zip(views, host.tensors, strict=True):
            view.copy_(tensor)
        made = replace(host, tensors=tuple(views), slab=slab)
        made.go_home()
        return made

    def _bring(self, index: int) -> _Slot:
        """Have a block in a slot by the time that the next work begins."""
        slot = next((slot for slot in self._slots if slot.held == index), None)
        if slot is None:  # a pass was broken off, and the slots are ahead
            slot = self._slots[0]
            self._fetch(index, slot)
        self._lane.hold_work(slot.filled)
        return slot

    @torch.inference_mode()  # a run is in it or not, and slots outlive both
    def _fetch(self, index: int, slot: _Slot) -> None:
        """Order a block's copy into a slot, after the work that reads the slot now."""
        host = self._host[index]
        if slot.free is not None:
            self._lane.hold_copies(slot.free)
        if host.slab is not None:
            self._lane.copy(slot.buffer[: host.nbytes], host.slab[: host.nbytes])
        else:
            for view, tensor in zip(host.views(slot.buffer), host.tensors, strict=True):
                self._lane.copy(view, tensor)
        slot.held, slot.filled = index, self._lane.after_copies()
        self._copied_nbytes += sum(tensor.nbytes for tensor in host.tensors)


def block_nbytes(dit: WanDiT) -> tuple[int, int]:
    """Give the bytes of a DiT's largest block, and of all weights outside its blocks."""
    sizes = [sum(p.nbytes for p in block.parameters()) for block in dit.blocks]
    total = sum(parameter.nbytes for parameter in dit.parameters())
    return max(sizes), total - sum(sizes)


def stream_blocks(
    dit: WanDiT, residency: Residency, *, device: torch.device, slabs: Slabs | None = None
) -> BlockStream:
    """Put a DiT onto a device as a residency says; from then on it takes its blocks from a stream.

    Args:
        dit: on the CPU.
        slabs: locked host memory; None: none.
    """
    blocks = dit.blocks
    del dit.blocks
    dit.to(device)
    dit.blocks = blocks
    made = BlockStream(
        cast("Sequence[DiTBlock]", list(blocks)),
        residency,
        device=device,
        slabs=slabs or Slabs(0),
    )
    dit.stream = made
    return made


def run_steadily(dit: WanDiT, work: Callable[[], Made]) -> Made:
    """Run a DiT; out of memory, let more of its blocks be streamed, and run it again.

    Raises:
        torch.cuda.OutOfMemoryError: if no block is left to move.
    """
    while True:
        tried = attempt(work)
        if tried.shortage is None:
            return cast(Made, tried.made)
        stream = dit.stream
        if not isinstance(stream, BlockStream) or not stream.shrink():
            raise tried.shortage
        _log.warning("out of memory: going on with %s", stream.residency.describe())
