"""What people and programs are told of a run: bars while it goes on, a report afterwards."""

import json
import platform
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm import tqdm

from ..files import part_file
from ..progress import Phase, Progress

try:
    import resource
except ImportError:  # Windows
    resource = None


class Bars:
    """Show a bar for each phase; also a stopwatch, because both listen to the same events.

    Two phases may take turns: then both bars are there.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._quiet = quiet
        self._open: dict[Phase, tqdm[Any]] = {}
        self._last = time.perf_counter()

    def __call__(self, progress: Progress) -> None:
        """Take one unit of work."""
        if progress.step == progress.steps and torch.cuda.is_available():
            torch.cuda.synchronize()  # a step is told of when it has been ordered, not done
        now = time.perf_counter()
        self.seconds[progress.phase.value] += now - self._last
        self._last = now
        bar = self._open.get(progress.phase)
        if bar is None:
            bar = self._open[progress.phase] = tqdm(
                total=progress.steps * progress.segments,
                desc=progress.phase.value,
                disable=self._quiet or sys.stderr is None,
                file=sys.stderr,
                position=len(self._open),
                leave=True,
            )
        if progress.segments > 1:
            where = f"segment {progress.segment} of 0-{progress.segments - 1}"
            bar.set_postfix_str(f"{where}, step {progress.step}/{progress.steps}", False)
        bar.update()
        if progress.step == progress.steps and progress.segment == progress.segments - 1:
            bar.close()
            del self._open[progress.phase]

    def close(self) -> None:
        """Leave the bars as they stand and end their lines."""
        while self._open:
            _, bar = self._open.popitem()
            bar.close()

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def machine() -> dict[str, Any]:
    """Describe where a run was made."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def peak_memory() -> dict[str, int | None]:
    """Give the most memory this process has held, in bytes; None where it cannot be known."""
    if resource is not None:
        scale = 1 if sys.platform == "darwin" else 1024
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    else:
        # Only Windows gives the most; psutil knows it there.
        host = getattr(psutil.Process().memory_info(), "peak_wset", None)
    device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return {"host_nbytes": host, "device_nbytes": device}


def write_json(data: dict[str, Any], path: Path) -> None:
    """Write data for programs; the file is always a whole one."""
    with part_file(path) as part:
        part.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
