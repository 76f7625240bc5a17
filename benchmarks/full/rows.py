"""What was measured: rows in a file that is whole after each of them.

So a run that is cut off keeps what it has, and a row that fails says so and stops nothing else.
"""

import json
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .machine import Machine
from .scale import Scale


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement; what does not apply is None.

    Attributes:
        name: of what was measured.
        group: of rows that belong together: a whole run, a block's parts.
        seconds: of one run of it, without loading and without writing the video.
        flops: of that run.
        load_seconds: making or reading the models of the stage, and bringing them to the device.
        write_seconds: that the run waited for the encoder of the video.
        peak_nbytes: most bytes of tensors on the device.
        reserved_nbytes: likewise with the allocator's own cache.
        predicted_nbytes: what the plan says of ``peak_nbytes``.
        host_nbytes: most host memory of the process, mapped files included.
        copied_nbytes: that streaming brought to the device.
        hidden_share: of the streaming's time, the share that work went on in.
        facts: anything else.
        note: a remark.
        error: why there is no measurement.
    """

    name: str
    group: str = ""
    seconds: float | None = None
    flops: float | None = None
    load_seconds: float | None = None
    write_seconds: float | None = None
    peak_nbytes: int | None = None
    reserved_nbytes: int | None = None
    predicted_nbytes: int | None = None
    host_nbytes: int | None = None
    copied_nbytes: int | None = None
    hidden_share: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    note: str = ""
    error: str = ""


class Record:
    """The rows of one part, in one file.

    Args:
        path: rewritten after each row; if there is a file by that name, NAME-2 is taken, NAME-3 ...
        part: its name.
        scale: at what size it is measured.
    """

    def __init__(self, path: Path, part: str, scale: Scale, machine: Machine) -> None:
        self.path = _free_name(path)
        self.machine = machine
        self.rows: list[Row] = []
        self._head: dict[str, Any] = {
            "part": part,
            "scale": scale.name,
            "command": shlex.join(["python", "-m", "benchmarks.full", *sys.argv[1:]]),
            "began": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "machine": machine.describe(),
            "ceiling_flops": machine.ceiling_flops(scale.ceiling_side),
            "complete": False,
        }
        self._write()

    @property
    def ceiling_flops(self) -> float:
        """Give the measured rate of a matrix product."""
        return self._head["ceiling_flops"]

    def put(self, row: Row) -> None:
        """Add a row, in place of an earlier one of that name and group, and keep it."""
        key = (row.group, row.name)
        self.rows = [old for old in self.rows if (old.group, old.name) != key] + [row]
        self._write()

    def say(self, row: Row) -> None:
        """Add a row, and print it."""
        self.put(row)
        print(self.sentence(row), flush=True)

    def attempt(self, name: str, measure: Callable[[], Row | None], *, group: str = "") -> bool:
        """Measure, and add the row; whatever goes wrong becomes a row that says so.

        Args:
            measure: what adds its rows by itself gives None.

        Returns:
            Whether nothing went wrong.
        """
        self.machine.clear()
        try:
            row = measure()
        except Exception as error:  # noqa: BLE001 - packages of any version, and their compilers
            traceback.print_exc(limit=-4)
            row = Row(name=name, group=group, error=short_reason(error))
        if row is not None:
            self.say(row)
        self.machine.clear()
        return row is None or not row.error

    def sentence(self, row: Row) -> str:
        """Say a row in a line."""
        where = f"{row.group}: {row.name}" if row.group else row.name
        if row.error:
            return f"{where:<64} {row.error}"
        words = [f"{where:<64}", "-" if row.seconds is None else f"{row.seconds:10.4f} s"]
        if row.flops and row.seconds:
            rate = row.flops / row.seconds
            words.append(f"{rate / 1e12:8.1f} TFLOP/s {rate / self.ceiling_flops:6.1%}")
        if row.load_seconds is not None:
            words.append(f"load {row.load_seconds:.2f} s")
        if row.peak_nbytes is not None:
            words.append(f"peak {row.peak_nbytes / 2**30:.2f} GiB")
        return " ".join(words)

    def complete(self) -> None:
        """Note that nothing is missing."""
        self._head["complete"] = True
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        data = {**self._head, "rows": [asdict(row) for row in self.rows]}
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        part.replace(self.path)


def short_reason(error: Exception) -> str:
    """Say in a line what went wrong."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


def _free_name(path: Path) -> Path:
    """Find a name that no earlier run of the part has taken: its rows are not written over."""
    found, count = path, 1
    while found.exists():
        count += 1
        found = path.with_stem(f"{path.stem}-{count}")
    return found
