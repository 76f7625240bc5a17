"""Where it is measured: the device, its clock, its memory, its ceiling, and what is installed."""

import gc
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("av", "diffusers", "transformers", "triton", "sageattention", "flash_attn", "numpy")
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""What Linux takes as: forget the highest resident size of this process."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The device that is measured, and the number format of its work."""

    device: torch.device
    compute: torch.dtype

    @property
    def is_cuda(self) -> bool:
        """Whether it has memory and a clock of its own."""
        return self.device.type == "cuda"

    def synchronize(self) -> None:
        """Wait until all work that was ordered is done."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def clear(self) -> None:
        """Let go of what nobody holds, and begin a new peak."""
        if self.is_cuda:
            gc.collect()
            torch.cuda.empty_cache()
        self.reset_peak()

    def reset_peak(self) -> None:
        """Begin a new peak, of the device's memory and of the host's."""
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            _CLEAR.write_text(_RESET_PEAK)
        except OSError:  # then the host's peak is that of the process so far
            return

    def peak_nbytes(self) -> int | None:
        """Give the most bytes of tensors on the device since the peak was begun."""
        return torch.cuda.max_memory_allocated(self.device) if self.is_cuda else None

    def reserved_nbytes(self) -> int | None:
        """Give the most bytes that PyTorch held on the device, its own cache included."""
        return torch.cuda.max_memory_reserved(self.device) if self.is_cuda else None

    def total_nbytes(self) -> int | None:
        """Give the device's memory."""
        return torch.cuda.mem_get_info(self.device)[1] if self.is_cuda else None

    def context_nbytes(self) -> int | None:
        """Give what is taken on the card beside PyTorch's memory: CUDA's context, and others."""
        if not self.is_cuda:
            return None
        free, total = torch.cuda.mem_get_info(self.device)
        return total - free - torch.cuda.memory_reserved(self.device)

    def seconds_of(self, run: Callable[[], object], *, repeats: int, warm_ups: int = 2) -> float:
        """Give the median seconds of a run, after some that do not count.

        Their memory does not count either: a search for the fastest algorithm takes more than the
        algorithm that it finds.
        """
        for _ in range(warm_ups):
            run()
        self.synchronize()
        self.reset_peak()
        seconds: list[float] = []
        for _ in range(repeats):
            self.synchronize()
            begin = time.perf_counter()
            run()
            self.synchronize()
            seconds.append(time.perf_counter() - begin)
        return statistics.median(seconds)

    def ceiling_flops(self, side: int) -> float:
        """Measure the best rate of a matrix product in the compute format, on random numbers."""
        left = torch.randn(side, side, device=self.device, dtype=self.compute)
        right = torch.randn(side, side, device=self.device, dtype=self.compute)
        best = min(self.seconds_of(lambda: left @ right, repeats=1) for _ in range(10))
        return 2 * side**3 / best

    def describe(self) -> dict[str, Any]:
        """Say what it is and what is installed, as plain data."""
        found: dict[str, Any] = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "commit": _commit(),
            "packages": {name: seen for name in PACKAGES if (seen := _version(name))},
            "gpu": None,
        }
        if self.is_cuda:
            found |= {
                "gpu": torch.cuda.get_device_name(self.device),
                "capability": list(torch.cuda.get_device_capability(self.device)),
                "cuda": torch.version.cuda,
                "cudnn": torch.backends.cudnn.version(),
                "total_nbytes": self.total_nbytes(),
                "context_nbytes": self.context_nbytes(),
                "allocator": os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ""),
            }
        return found


def this_machine() -> Machine:
    """Take CUDA in bf16 if there is any, else the CPU in fp32."""
    if torch.cuda.is_available():
        return Machine(device=torch.device("cuda", 0), compute=torch.bfloat16)
    return Machine(device=torch.device("cpu"), compute=torch.float32)


def host_peak_nbytes() -> int | None:
    """Give the most memory that the process held since the peak was begun, mapped files too."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    peaks = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(peaks[0]) if peaks else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Name the commit that is measured, where git and its folder are there."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
