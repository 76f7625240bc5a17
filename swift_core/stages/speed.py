"""How fast a machine works, so that a run's time can be told beforehand."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from ..shortage import attempt

_SIDE = 4096
_ROUNDS = 8
_SUSTAINED = 0.6
"""Of what plain matrix products reach, a share that whole models reach too."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What a machine does in a second.

    Attributes:
        flops: multiplications and additions that models reach.
        copy_nbytes: that come to the device.
        origin: where the numbers are from, for people.
    """

    flops: float = 1e14
    copy_nbytes: float = 2e10
    origin: str = "near an RTX 4090's"

    def describe(self) -> str:
        """Say it in words."""
        rate = f"{self.flops / 1e12:.3g} TFLOP/s"
        return f"{rate} and {self.copy_nbytes / 1e9:.3g} GB/s to the card ({self.origin})"


USUAL_SPEED = Speed()


def measure_speed(device: torch.device, *, dtype: torch.dtype) -> Speed:
    """Measure a device for a moment: a few matrix products, and a copy."""
    if device.type == "cpu":
        return Speed(flops=_SUSTAINED * _products(device, dtype, side=1024), origin="measured")
    copied = torch.empty(2**28, dtype=torch.uint8).pin_memory()
    target = torch.empty_like(copied, device=device)
    target.copy_(copied)
    seconds = _timed(lambda: target.copy_(copied, non_blocking=True), device, rounds=2)
    return Speed(
        flops=_SUSTAINED * _products(device, dtype, side=_SIDE),
        copy_nbytes=copied.nbytes / seconds,
        origin="measured",
    )


def speed_of(device: torch.device, *, dtype: torch.dtype) -> Speed:
    """Measure a device; where it has no memory for that now, take it for a usual one."""
    return attempt(partial(measure_speed, device, dtype=dtype)).made or USUAL_SPEED


def _products(device: torch.device, dtype: torch.dtype, *, side: int) -> float:
    left, right = torch.randn((2, side, side), device=device, dtype=torch.float32).to(dtype)
    made = left @ right
    seconds = _timed(lambda: torch.mm(left, right, out=made), device, rounds=_ROUNDS)
    return 2 * side**3 / seconds


def _timed(work: Callable[[], object], device: torch.device, *, rounds: int) -> float:
    """Give the seconds of one round."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    begin = time.perf_counter()
    for _ in range(rounds):
        work()
    wait()
    return (time.perf_counter() - begin) / rounds
