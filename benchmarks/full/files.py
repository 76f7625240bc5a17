"""Reading a model from disk: the first expert's file, cold and warm, and what it takes to stream.

The files are a whole set of random weights, which ``end-to-end --models`` then runs from.
"""

import os
import time
from pathlib import Path

import torch

from swift_core.memory.residency import fit_residency
from swift_core.memory.streaming import block_nbytes, stream_blocks
from swift_core.model.dit import WanDiT
from swift_core.slabs import Slabs
from swift_core.weights.build import build_dit

from .machine import host_peak_nbytes
from .model_files import write_models
from .rows import Record, Row
from .scale import Scale
from .weights import precision_of
from .whole import GIB

GROUP = "an expert from its file"


def measure_files(record: Record, scale: Scale, folder: Path, *, packed: bool) -> None:
    """Write a set of models where there is none, and read one of them in every way."""
    found: list[Path] = []

    def write() -> Row:
        begin = time.perf_counter()
        made = write_models(scale, record.machine, folder, packed=packed)
        found.extend(made.models.motion_high.files)
        return Row(
            name="writing the set",
            group=GROUP,
            seconds=time.perf_counter() - begin,
            facts={"nbytes": made.nbytes},
            note=made.note,
        )

    if not record.attempt("writing the set", write, group=GROUP):
        return
    file = found[0]
    for name, forgets in (("not in memory yet", True), ("in memory already", False)):
        record.attempt(name, lambda n=name, f=forgets: _read(record, file, n, f), group=GROUP)
    for name, pinned in (("streamed, pinned", 32 * GIB), ("streamed, not pinned", 0)):
        record.attempt(name, lambda n=name, p=pinned: _stream(record, file, n, p), group=GROUP)


def _read(record: Record, file: Path, name: str, forgets: bool) -> Row:
    """Build a DiT and bring it to the device."""
    if forgets:
        _forget(file)
    begin = time.perf_counter()
    dit = build_dit(file, precision=precision_of(record.machine))
    built = time.perf_counter() - begin
    dit.to(record.machine.device)
    _touch(dit)
    record.machine.synchronize()
    seconds = time.perf_counter() - begin
    return Row(
        name=name,
        group=GROUP,
        seconds=seconds,
        peak_nbytes=record.machine.peak_nbytes(),
        host_nbytes=host_peak_nbytes(),
        facts={
            "build_seconds": built,
            "nbytes": file.stat().st_size,
            "nbytes_per_second": file.stat().st_size / seconds,
        },
    )


def _stream(record: Record, file: Path, name: str, pinned_nbytes: int) -> Row:
    """Prepare a DiT whose blocks are all streamed, and walk through them once."""
    machine = record.machine
    begin = time.perf_counter()
    dit = build_dit(file, precision=precision_of(machine))
    largest, fixed = block_nbytes(dit)
    residency = fit_residency(
        blocks=dit.config.layers,
        block_nbytes=largest,
        fixed_nbytes=fixed,
        working_nbytes=0,
        budget_nbytes=fixed + 2 * largest,
    )
    stream = stream_blocks(dit, residency, device=machine.device, slabs=Slabs(pinned_nbytes))
    machine.synchronize()
    prepared = time.perf_counter() - begin
    begin = time.perf_counter()
    for _ in stream.walk():
        continue
    machine.synchronize()
    walk = time.perf_counter() - begin
    report = stream.report()
    rate = report.copied_nbytes / report.copy_seconds if report.copy_seconds else 0.0
    return Row(
        name=name,
        group=GROUP,
        seconds=walk,
        load_seconds=prepared,
        copied_nbytes=report.copied_nbytes,
        host_nbytes=host_peak_nbytes(),
        facts={"copy_nbytes_per_second": rate},
        note="one walk through all blocks without work",
    )


def _forget(file: Path) -> None:
    """Ask the system to drop a file's pages."""
    if not hasattr(os, "posix_fadvise"):
        return
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _touch(dit: WanDiT) -> None:
    """Read a number of every page where the weights stay in host memory, as mapped."""
    for parameter in dit.parameters():
        if parameter.device.type == "cpu":
            parameter.detach().flatten().view(torch.uint8)[::4096].sum()
