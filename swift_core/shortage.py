"""Running out of memory, told apart from everything else, and left behind before a second try."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

Made = TypeVar("Made")

_SIGNS = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "unable to find an engine to execute this computation",
)
"""How libraries below PyTorch tell it, as plain runtime errors; cuDNN finds no engine where none
of them gets its workspace."""


def is_shortage(error: BaseException) -> bool:
    """Tell whether an error says that a device has too little memory."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


@dataclass(frozen=True)
class Tried(Generic[Made]):
    """What came of a try: something made, or a shortage."""

    made: Made | None
    shortage: BaseException | None


def attempt(work: Callable[[], Made]) -> Tried[Made]:
    """Run work; of a shortage only the error is left, and nothing that the work held.

    A handler would keep the failed work's tensors alive, through the traceback's frames, while
    memory is sought for the next try.
    """
    try:
        return Tried(work(), None)
    except Exception as error:
        if not is_shortage(error):
            raise
        return Tried(None, error.with_traceback(None))
