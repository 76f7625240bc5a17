"""Host memory that is locked in place, so that a device can reach it by itself.

PyTorch's own pinned allocator rounds up to powers of two: 703 MB would take 1 GB. So memory is
taken as it is needed and registered with CUDA afterwards.
"""

import logging
import weakref
from contextlib import suppress
from typing import Any, cast

import psutil
import torch

from .shapes import Tensor

_log = logging.getLogger(__name__)

_ALIGNMENT = 256
"""Of every tensor in a slab, in bytes: what kernels and copies like."""

_PAGE = 4096


def aligned(nbytes: int) -> int:
    """Give the room that so many bytes take in a slab."""
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


def most_locked() -> int:
    """Give the most bytes to lock now: half of what is free, because the rest cannot be swapped."""
    return psutil.virtual_memory().available // 2


def lockable(nbytes: int, device: torch.device) -> Tensor:
    """Take host memory that can be locked for a device: its pages are nobody else's.

    A page is locked once, so of two pieces that share one the second could not be.
    """
    if device.type != "cuda":
        return torch.empty(nbytes, dtype=torch.uint8)
    pages = -(-nbytes // _PAGE) * _PAGE
    buffer = torch.empty(pages + _PAGE, dtype=torch.uint8)
    begin = -buffer.data_ptr() % _PAGE
    return buffer[begin : begin + pages]


def lock(slab: Tensor, device: torch.device) -> bool:
    """Lock a piece of host memory, for as long as it lives; False, with a line of log, if not."""
    if device.type != "cuda":
        return False
    runtime = cast(Any, torch.cuda.cudart())
    if int(runtime.cudaHostRegister(slab.data_ptr(), slab.nbytes, 0)) == 0:
        weakref.finalize(slab, _unlock, runtime, device, slab.data_ptr())
        return True
    _log.warning("no more host memory can be locked: copying from pageable memory")
    # The refusal stays noted as CUDA's last error, and the next kernel would be blamed for it.
    with suppress(RuntimeError):
        torch.zeros(1, device=device)
        torch.cuda.synchronize(device)
    return False


def _unlock(runtime: Any, device: torch.device, address: int) -> None:
    """Unlock a slab's pages once nothing is copied to or from them any more."""
    torch.cuda.synchronize(device)
    runtime.cudaHostUnregister(address)
