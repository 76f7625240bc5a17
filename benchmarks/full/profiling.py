"""Where the time of one run of something goes, kernel by kernel."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from .machine import Machine
from .rows import short_reason

MOST_ROWS = 15


@dataclass(frozen=True, kw_only=True)
class Profiler:
    """Append tables of the costliest operations to a file; None profiles nothing."""

    path: Path | None

    def look(self, name: str, run: Callable[[], object], machine: Machine) -> str:
        """Run once, and write the table; give a remark if that fails.

        What was measured before must not be lost with it.
        """
        if self.path is None:
            return ""
        try:
            self._write(self.path, name, run, machine)
        except Exception as error:  # noqa: BLE001 - profilers of any driver
            return f"no profile: {short_reason(error)}"
        return ""

    def _write(self, path: Path, name: str, run: Callable[[], object], machine: Machine) -> None:
        kinds = [ProfilerActivity.CPU]
        if machine.is_cuda:
            kinds.append(ProfilerActivity.CUDA)
        machine.synchronize()
        with profile(activities=kinds, record_shapes=True) as profiled:
            run()
            machine.synchronize()
        seen: Any = profiled  # what it gives is untyped
        order = "self_device_time_total" if machine.is_cuda else "self_cpu_time_total"
        sections: list[str] = [
            seen.key_averages().table(sort_by=order, row_limit=MOST_ROWS, max_name_column_width=70),
            seen.key_averages(group_by_input_shape=True).table(
                sort_by=order,
                row_limit=MOST_ROWS,
                max_name_column_width=40,
                max_shapes_column_width=80,
            ),
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"# {name}\n\n" + "\n".join(sections) + "\n")
