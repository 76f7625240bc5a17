"""How a piece is timed: ready before its clock starts, and told of even where it cannot be made."""

from collections.abc import Callable
from dataclasses import replace

import torch

from .machine import Machine
from .rows import Record, Row
from .scale import Scale

Run = Callable[[], object]


def timed(record: Record, scale: Scale, row: Row, run: Run) -> None:
    """Add a row with the time and the memory of a run."""
    prepared(record, scale, row, lambda: run)


def prepared(record: Record, scale: Scale, row: Row, prepare: Callable[[], Run]) -> None:
    """Add a row likewise, of a run that has to be made ready first, which may fail as well."""
    machine = record.machine

    @torch.inference_mode()
    def measure() -> Row:
        run = prepare()
        seconds = machine.seconds_of(run, repeats=scale.repeats)
        return replace(row, seconds=seconds, peak_nbytes=machine.peak_nbytes())

    record.attempt(row.name, measure, group=row.group)


def normal(machine: Machine, *size: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Draw normal numbers on the device."""
    return torch.randn(size, device=machine.device, dtype=dtype or machine.compute)
