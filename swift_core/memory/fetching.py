"""What a device has made comes to the host while the device makes the next."""

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from ..shapes import Tensor

_log = logging.getLogger(__name__)


def fetch(made: Iterable[Tensor]) -> Iterator[Tensor]:
    """Give tensors on the CPU, in order.

    From a CUDA device each is given when the work for the next one has been ordered: so the copy,
    and whatever the taker does with it, go on beside that work.
    """
    waiting: _Fetched | None = None
    for tensor in made:
        if tensor.device.type != "cuda":
            yield tensor.cpu()
            continue
        fetched = _Fetched(tensor)
        del tensor  # or it would stay on the device through the next one's work
        if waiting is not None:
            yield waiting.wait()
        waiting = fetched
    if waiting is not None:
        yield waiting.wait()


class _Fetched:
    """A tensor on its way."""

    def __init__(self, tensor: Tensor) -> None:
        self._target = _empty_like(tensor)
        self._target.copy_(tensor, non_blocking=True)
        event: Any = torch.cuda.Event(blocking=True)  # whoever waits leaves the core to others
        event.record(torch.cuda.current_stream(tensor.device))
        self._arrived = event

    def wait(self) -> Tensor:
        """Wait until it is here."""
        self._arrived.synchronize()
        return self._target


def _empty_like(tensor: Tensor) -> Tensor:
    """Give host memory that the device can write by itself, or, where there is none, any."""
    try:
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    except RuntimeError as error:
        _log.info("no host memory can be locked for a copy (%s)", error)
        return torch.empty(tensor.shape, dtype=tensor.dtype)
