"""Where the time of one run of something goes, kernel by kernel."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from .machine import Machine

MOST_ROWS = 15


@dataclass(frozen=True, kw_only=True)
class Profiler:
    """Append tables of the costliest operations to a file; None profiles nothing."""

    path: Path | None

    def look(self, name: str, run: Callable[[], object], machine: Machine) -> None:
        """Run once, and write the table."""
        if self.path is None:
            return
        kinds = [ProfilerActivity.CPU]
        if machine.is_cuda:
            kinds.append(ProfilerActivity.CUDA)
        machine.synchronize()
        with profile(activities=kinds, record_shapes=True) as seen:
            run()
            machine.synchronize()
        order = "self_device_time_total" if machine.is_cuda else "self_cpu_time_total"
        sections = [
            seen.key_averages().table(sort_by=order, row_limit=MOST_ROWS, max_name_column_width=70),
            seen.key_averages(group_by_input_shape=True).table(
                sort_by=order,
                row_limit=MOST_ROWS,
                max_name_column_width=40,
                max_shapes_column_width=80,
            ),
        ]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"# {name}\n\n" + "\n".join(sections) + "\n")
