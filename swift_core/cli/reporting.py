"""What people and programs are told of a run: bars while it goes on, a report afterwards."""

import json
import platform
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..files import part_file
from ..progress import Phase, Progress

try:
    import resource
except ImportError:  # Windows
    resource = None


class Bars:
    """Show a bar for each phase; also a stopwatch, because both listen to the same events."""

    def __init__(self, *, quiet: bool) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._quiet = quiet
        self._bar: tqdm[Any] | None = None
        self._phase: Phase | None = None
        self._last = time.perf_counter()

    def __call__(self, progress: Progress) -> None:
        """Take one unit of work."""
        now = time.perf_counter()
        self.seconds[progress.phase.value] += now - self._last
        self._last = now
        if progress.phase is not self._phase:
            self.close()
            self._phase = progress.phase
            self._bar = tqdm(
                total=progress.steps * progress.segments,
                desc=progress.phase.value,
                disable=self._quiet or sys.stderr is None,
                file=sys.stderr,
            )
        if self._bar is not None:
            if progress.segments > 1:
                where = f"segment {progress.segment} of 0-{progress.segments - 1}"
                self._bar.set_postfix_str(f"{where}, step {progress.step}/{progress.steps}", False)
            self._bar.update()

    def close(self) -> None:
        """Leave the bar as it stands and end its line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

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
    host = None
    if resource is not None:
        scale = 1 if sys.platform == "darwin" else 1024
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return {"host_nbytes": host, "device_nbytes": device}


def write_json(data: dict[str, Any], path: Path) -> None:
    """Write data for programs; the file is always a whole one."""
    with part_file(path) as part:
        part.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
