"""The plan of a run, whole: what will be made, where its weights and work will be, how long.

The command line, the main path and the nodes plan with this one function; it refuses what cannot
work before a weight is read.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..media.codecs import VideoCodec, video_nbytes
from .fit import in_gb
from .memory import Between, MemoryPlan, plan_memory
from .plan import GenerationPlan
from .resources import Resources
from .work import PlannedModels, StageWork


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """All that is known of a run beforehand.

    Attributes:
        generation: sizes, segments and work.
        memory: where everything will be; None where memory is not bounded.
        resources: what it was planned for.
    """

    generation: GenerationPlan
    memory: MemoryPlan | None
    resources: Resources

    @property
    def between(self) -> Between | None:
        """How finished segments are decoded while later ones wait; None: afterwards."""
        return None if self.memory is None else self.memory.between

    @property
    def seconds(self) -> Mapping[str, float]:
        """Estimate each stage's time: its arithmetic, and the copying that is not hidden behind it.

        Reading files is not counted: it depends on the disk, and mostly goes on beside the work.
        """
        speed = self.resources.speed

        def estimate(work: StageWork) -> float:
            stage = None if self.memory is None else self.memory.stages.get(work.stage)
            computing = work.flops / speed.flops
            if stage is None:
                return computing
            return max(computing, stage.copied_nbytes / speed.copy_nbytes)

        return {work.stage: estimate(work) for work in self.generation.work}

    @property
    def h264_nbytes(self) -> int:
        """Estimate the size of the video's file in the usual codec."""
        return video_nbytes(self.generation.output, VideoCodec.H264)

    @property
    def rereads(self) -> bool:
        """Whether streamed blocks are more than host memory has free: every pass reads the disk."""
        host = self.resources.host_nbytes
        if self.memory is None or host is None:
            return False
        stages = self.memory.stages
        dits = [stages[name] for name in ("motion", "refine") if name in stages]
        return any(stage.host_nbytes > host for stage in dits)

    def as_data(self) -> dict[str, Any]:
        """Give the plan as plain data, for JSON."""
        data = self.generation.as_data()
        data["seconds"] = dict(self.seconds)
        data["speed"] = asdict(self.resources.speed)
        data["memory"] = None if self.memory is None else self.memory.as_data()
        data["latent_nbytes"] = self.generation.latent_nbytes
        data["h264_nbytes"] = self.h264_nbytes
        return data

    def describe(self) -> str:
        """Give the plan in words, a line each."""
        video, latent = self.h264_nbytes / 1e6, self.generation.latent_nbytes / 1e6
        lines = [
            self.generation.describe(),
            f"disk      about {video:.0f} MB for the video in h264, {latent:.0f} MB for its latent "
            "where that is kept",
        ]
        if self.memory is not None:
            lines.append(self.memory.describe())
        if self.rereads:
            lines.append(
                f"          only {in_gb(self.resources.host_nbytes or 0)} of host memory are free: "
                "every pass reads streamed blocks from disk"
            )
        total = sum(self.seconds.values())
        lines.append(f"time      {_duration(total)} at {self.resources.speed.describe()}")
        lines += [
            f"          {_duration(seconds):>8}  {name}" for name, seconds in self.seconds.items()
        ]
        return "\n".join(lines)


def plan_run(
    models: PlannedModels,
    made: GenerationPlan,
    resources: Resources,
    *,
    compute: torch.dtype,
) -> RunPlan:
    """Fit a planned run into what there is, or refuse it.

    Args:
        compute: number format of weights that are not packed, and of all work.

    Raises:
        BudgetError: if a stage does not fit, saying which change would make it fit.
    """
    memory: MemoryPlan | None = None
    if resources.is_bounded:
        memory = plan_memory(models, made, resources, compute=compute)
    return RunPlan(generation=made, memory=memory, resources=resources)


def _duration(seconds: float) -> str:
    if seconds >= 120:
        return f"{seconds / 60:.3g} min"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
