"""Whole runs, from a picture to a file: the product's own path, timed phase by phase.

Models are random ones in memory, which cost nothing to read, or those of a folder. A cap plays a
smaller card: the allocator refuses what would not fit there, and the plan is given what the
command line would find free on it.
"""

import argparse
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from swift_core.cli.arguments import make_parser
from swift_core.cli.settings import choose_runtime
from swift_core.cli.videos import open_writer
from swift_core.geometry import PixelShape
from swift_core.pipeline import GenerationSettings, generate, plan
from swift_core.progress import Phase, ignore
from swift_core.segments.plan import SegmentSettings
from swift_core.stages.fit import StageMemory
from swift_core.stages.memory import plan_memory
from swift_core.stages.plan import GenerationPlan, planned_models
from swift_core.stages.runtime import Runtime
from swift_core.vae.memory import decode_peak, encode_peak
from swift_core.weights.model_set import ModelSet

from .heard import heard, in_short
from .machine import Machine, host_peak_nbytes
from .rows import Record, Row
from .watch import Watch, watched
from .without_av import has_av

GIB = 2**30

CONTEXT_NBYTES = int(0.6 * GIB)
"""Of a card that PyTorch cannot use: CUDA's context and kernels; ``machine`` has the measured."""

PLANNED_SHARE = 0.85
"""Of what is free that the command line plans with (``_free_on_card``); the rest is for the work
space of convolutions and for gaps between tensors."""

WHOLE_RUN, WARM_UP = "whole run", "warm-up"


@dataclass(frozen=True, kw_only=True)
class Cap:
    """A smaller card.

    Attributes:
        gib: its memory.
    """

    gib: float

    @property
    def room_nbytes(self) -> int:
        """Give what PyTorch can use of it."""
        return max(int(self.gib * GIB) - CONTEXT_NBYTES, int(self.gib * GIB) // 2)

    @property
    def budget_nbytes(self) -> int:
        """Give what the plan may use of it."""
        return int(PLANNED_SHARE * self.room_nbytes)

    def enforce(self, machine: Machine) -> None:
        """Let this process have no more, from now on; cards below 1 GiB are only planned for."""
        total = machine.total_nbytes()
        if total is not None and self.gib >= 1:  # CUDA's own libraries would not fit into less
            share = min(1.0, self.room_nbytes / total)
            torch.cuda.set_per_process_memory_fraction(share, machine.device)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One whole run.

    Attributes:
        label: of its rows.
        words: for ``swift_core generate``, beside what every run has.
    """

    label: str
    models: ModelSet
    output: PixelShape
    cap: Cap | None = None
    words: tuple[str, ...] = ()


def run_whole(job: Job, record: Record, folder: Path) -> None:
    """Make a video, and add a row for each phase and one for all."""
    made = plan(job.models, _settings(job))
    flops: dict[Phase | None, float] = {phase_of(work.stage): work.flops for work in made.work}
    options = _options(job, folder)

    def finished(phase: Phase) -> None:
        row = watch.row(phase, group=job.label, flops=flops.get(phase), planned=planned.get(phase))
        record.say(row)

    with heard() as warnings:
        begin = time.perf_counter()
        planned = _planned(job.models, made, choose_runtime(options, ignore))
        planning = time.perf_counter() - begin  # the run itself finds its plan ready
        picture = _picture(job.output)
        watch = Watch(record.machine, finished)
        seconds, nbytes = _make(job, picture, watch, options)
    total = _total(job, watch, seconds + planning, sum(flops.values()))
    facts = {**total.facts, "plan_seconds": planning, "video_nbytes": nbytes}
    notes = [] if nbytes is not None else ["frames dropped: PyAV (av) is not installed"]
    notes += [in_short(warnings)] if warnings else []
    record.say(replace(total, facts=facts, note="; ".join(notes)))


def warm_up(job: Job, record: Record, folder: Path) -> Row:
    """Make a short video that does not count, so that the next one pays for no first time.

    A first run loads kernels, plans convolutions and locks memory; its phases have no rows, and no
    mark knows of it.
    """
    watch = Watch(record.machine, lambda _phase: None)
    seconds, _ = _make(job, _picture(job.output), watch, _options(job, folder))
    return Row(
        name=WARM_UP,
        group=job.label,
        seconds=seconds,
        facts={"frames": job.output.pixel_frames},
        note="does not count",
    )


def forget_plans() -> None:
    """Let the next run find its plan by itself: whoever starts one waits for that."""
    decode_peak.cache_clear()
    encode_peak.cache_clear()


def _make(
    job: Job, picture: torch.Tensor, watch: Watch, options: argparse.Namespace
) -> tuple[float, int | None]:
    """Make the video as the command line does; give the seconds, and the size of the file."""
    runtime = watched(choose_runtime(options, watch), watch)
    frames = generate(job.models, picture, _settings(job), runtime=runtime)
    nbytes = _write(frames, watch, options, job.output)
    watch.machine.synchronize()
    return time.perf_counter() - watch.began, nbytes


def _settings(job: Job) -> GenerationSettings:
    return GenerationSettings(
        output=job.output,
        prompt="a slow zoom in on a cup of coffee",
        seed=0,
        segments=SegmentSettings(),
        motion_recipe=job.models.motion_recipe,
        detail_recipe=job.models.detail_recipe,
    )


def phase_of(stage: str) -> Phase | None:
    """Give the phase that the plan means by a stage's name; None if nothing is told of it.

    Of a text encoder that is large enough to be planned for, no progress is told.
    """
    return next((phase for phase in Phase if phase.value == stage), None)


def file_name(label: str) -> str:
    """Make a label the name of a file."""
    return re.sub(r"[^\w.]+", "-", label).strip("-")


def _options(job: Job, folder: Path) -> argparse.Namespace:
    """Give the options of the command line, as it would have them."""
    video = folder / f"{file_name(job.label)}.mp4"
    words = list(job.words)
    if job.cap is not None:
        words += ["--memory", str(job.cap.budget_nbytes / 1e9)]
    given = ["generate", "--image", "-", "--prompt", "-", "--output", str(video)]
    return make_parser().parse_args([*given, *words])


def _planned(
    models: ModelSet, made: GenerationPlan, runtime: Runtime
) -> dict[Phase | None, StageMemory]:
    """Give what the plan says of memory and copies, phase by phase."""
    if runtime.budget_nbytes is None:
        return {}
    planned = plan_memory(
        planned_models(models),
        made,
        runtime.resources(),
        compute=runtime.precision.compute,
    )
    return {phase_of(name): stage for name, stage in planned.stages.items()}


def _picture(output: PixelShape) -> torch.Tensor:
    """Draw a soft picture of the output's size."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand((1, 3, 8, 8), generator=draw)
    size = (output.height, output.width)
    return F.interpolate(coarse, size, mode="bilinear")[0].permute(1, 2, 0).contiguous()


def _write(
    frames: Iterator[torch.Tensor], watch: Watch, options: argparse.Namespace, output: PixelShape
) -> int | None:
    """Write the video as the command line does, and give its size; without PyAV drop the frames."""
    if not has_av():
        for _ in frames:
            continue
        return None
    with watch.writing():
        writer = open_writer(options, height=output.height, width=output.width, rate=options.fps)
        writer.__enter__()
    try:
        for chunk in frames:
            with watch.writing():
                writer.write(chunk)
    except BaseException as error:
        writer.__exit__(type(error), error, error.__traceback__)
        raise
    with watch.writing():
        writer.__exit__(None, None, None)
    video: Path = options.output
    nbytes = video.stat().st_size
    video.unlink()
    return nbytes


def _total(job: Job, watch: Watch, seconds: float, flops: float) -> Row:
    machine, spans = watch.machine, list(watch.spans.values())
    loading = sum(span.load_seconds for span in spans)
    writing = sum(span.write_seconds for span in spans) + watch.rest_seconds
    copies = sum(span.copy_seconds for span in spans)
    waits = sum(span.waited_seconds for span in spans)
    frames = job.output.pixel_frames
    facts: dict[str, Any] = {
        "wall_seconds": seconds,
        "frames": frames,
        "wall_seconds_per_frame": seconds / frames,
        "context_nbytes": machine.context_nbytes(),
    }
    if job.cap is not None:
        facts |= {
            "cap_gib": job.cap.gib,
            "budget_nbytes": job.cap.budget_nbytes,
            "room_nbytes": job.cap.room_nbytes,
        }
    if copies:
        facts["copy_seconds"] = copies
    on_device = spans if machine.is_cuda else []
    host = [span.host_nbytes for span in spans] + [host_peak_nbytes() or 0]
    return Row(
        name=WHOLE_RUN,
        group=job.label,
        seconds=seconds - loading - writing,
        flops=flops,
        load_seconds=loading,
        write_seconds=writing,
        peak_nbytes=max((span.peak_nbytes for span in on_device), default=None),
        reserved_nbytes=max((span.reserved_nbytes for span in on_device), default=None),
        host_nbytes=max(host) or None,
        copied_nbytes=sum(span.copied_nbytes for span in spans),
        hidden_share=max(0.0, 1 - waits / copies) if copies else None,
        facts=facts,
    )
