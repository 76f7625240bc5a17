"""Out of memory is known by its many names, and nothing of the failed try stays alive."""

import gc
import weakref

import pytest
import torch

from swift_core.shortage import attempt, is_shortage


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_a_shortage_by_any_name(error):
    assert is_shortage(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        ValueError("out of memory"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_pass_through(error):
    assert not is_shortage(error)

    def fails():
        raise error

    with pytest.raises(type(error)):
        attempt(fails)


def test_nothing_of_the_failed_work_stays_alive():
    class Large:
        """Stands for a tensor."""

    seen = []

    def work():
        large = Large()
        seen.append(weakref.ref(large))
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    tried = attempt(work)
    assert tried.made is None
    assert is_shortage(tried.shortage)
    gc.collect()
    assert seen[0]() is None
    assert attempt(lambda: 3).made == 3
