"""The plan of a run, whole: what will be made, where its weights and work will be, how long.

The command line, the main path and the nodes plan with this one function; it refuses what cannot
work before a weight is read.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from .fit import in_gb
from .memory import MemoryPlan, plan_memory
from .plan import GenerationPlan
from .speed import USUAL_SPEED, Speed
from .work import PlannedModels, StageWork


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a run may use.

    Attributes:
        device_nbytes: for a stage, weights and work together; None: no bound, but for VAEs where
            ``vae_nbytes`` is one.
        vae_nbytes: for a VAE beside its weights; None: what the device leaves.
        dits: where DiTs will be if there is no bound for them, in words.
        host_nbytes: that the machine has free; None: not known.
        speed: of the machine.
    """

    device_nbytes: int | None = None
    vae_nbytes: int | None = None
    dits: str = ""
    host_nbytes: int | None = None
    speed: Speed = field(default_factory=lambda: USUAL_SPEED)


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
    def seconds(self) -> Mapping[str, float]:
        """Estimate each stage's time: its arithmetic, or the copying of blocks if that is longer.

        Reading files is not counted: it depends on the disk, and mostly goes on beside the work.
        """
        speed = self.resources.speed

        def estimate(work: StageWork) -> float:
            stage = None if self.memory is None else self.memory.stages.get(work.stage)
            copied = 0 if stage is None else stage.copied_nbytes
            return max(work.flops / speed.flops, copied / speed.copy_nbytes)

        return {work.stage: estimate(work) for work in self.generation.work}

    @property
    def rereads(self) -> bool:
        """Whether a stage would keep more in host memory than is free: passes read the disk."""
        host = self.resources.host_nbytes
        return self.memory is not None and host is not None and self.memory.host_nbytes > host

    def as_data(self) -> dict[str, Any]:
        """Give the plan as plain data, for JSON."""
        data = self.generation.as_data()
        data["seconds"] = dict(self.seconds)
        data["speed"] = asdict(self.resources.speed)
        data["memory"] = None if self.memory is None else self.memory.as_data()
        data["latent_nbytes"] = self.generation.latent_nbytes
        return data

    def describe(self) -> str:
        """Give the plan in words, a line each."""
        lines = [self.generation.describe()]
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
    budget, room = resources.device_nbytes, resources.vae_nbytes
    if budget is not None or room is not None:
        memory = plan_memory(
            models,
            made,
            budget_nbytes=budget,
            compute=compute,
            vae_nbytes=room,
            dits=resources.dits,
        )
    return RunPlan(generation=made, memory=memory, resources=resources)


def _duration(seconds: float) -> str:
    if seconds >= 120:
        return f"{seconds / 60:.3g} min"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
