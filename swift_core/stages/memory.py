"""What a run takes of a device's memory, stage by stage, before a weight is read.

Stages take turns, so the largest of them counts. Each is fitted for itself: a DiT keeps as many
blocks resident as there is room for, a VAE runs in as few bands as fit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..geometry import PixelShape
from ..memory.residency import Residency, fit_residency
from ..memory.working import Step
from ..model.config import DiTConfig
from ..model.work import block_parameters, dit_parameters
from ..vae.bands import WHOLE
from ..vae.config import VAEConfig
from ..vae.memory import VaePlan, decode_peak, plan_decode, plan_encode
from .plan import GenerationPlan
from .runtime import Runtime
from .work import PlannedModels


@dataclass(frozen=True, kw_only=True)
class StageMemory:
    """One stage's share.

    Attributes:
        words: how it will run.
        device_nbytes: the most that is on the device.
        host_nbytes: in host memory beside the device: weights as they are mapped, parked state.
    """

    words: str
    device_nbytes: int
    host_nbytes: int


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What a run takes, by stage in order."""

    budget_nbytes: int
    stages: Mapping[str, StageMemory]

    @property
    def device_nbytes(self) -> int:
        """The most that is on the device at a time."""
        return max(stage.device_nbytes for stage in self.stages.values())

    @property
    def host_nbytes(self) -> int:
        """The most that a stage holds in host memory; mapped weights can be dropped and reread."""
        return max(stage.host_nbytes for stage in self.stages.values())

    def as_data(self) -> dict[str, Any]:
        """Give it as plain data, for JSON."""
        return {
            "budget_nbytes": self.budget_nbytes,
            "device_nbytes": self.device_nbytes,
            "host_nbytes": self.host_nbytes,
            "stages": {
                name: {
                    "how": stage.words,
                    "device_nbytes": stage.device_nbytes,
                    "host_nbytes": stage.host_nbytes,
                }
                for name, stage in self.stages.items()
            },
        }

    def describe(self) -> str:
        """Say it in words, a line for each stage."""
        lines = [
            f"memory    {_gb(self.device_nbytes)} of {_gb(self.budget_nbytes)} on the device, "
            f"{_gb(self.host_nbytes)} in host memory"
        ]
        lines += [
            f"          {_gb(stage.device_nbytes):>8}  {name}: {stage.words}"
            for name, stage in self.stages.items()
        ]
        return "\n".join(lines)


def plan_memory(
    models: PlannedModels,
    made: GenerationPlan,
    *,
    budget_nbytes: int,
    compute: torch.dtype,
    vae_nbytes: int | None = None,
) -> MemoryPlan:
    """Fit every stage of a run into a device's memory.

    Args:
        budget_nbytes: for one stage with all of its weights.
        compute: number format of weights that are not packed, and of all work.
        vae_nbytes: for a VAE beside its weights; None: what the budget leaves.

    Raises:
        BudgetError: if a stage does not fit, saying what would.
    """
    stages: dict[str, StageMemory] = {}
    fit = _Fit(budget_nbytes, compute, vae_nbytes)
    if not made.has_motion:
        packed = models.motion_packed_nbytes
        stages["motion"] = fit.dit(models.motion, made.motion_step, packed)
        stages["motion: decode"] = fit.decode(models.motion_vae, made.motion)
    stages["reference: encode"] = fit.encode(models.detail_vae, made.output)
    stages["refine"] = fit.dit(models.detail, made.detail_step, models.detail_packed_nbytes)
    stages["decode"] = fit.decode(models.detail_vae, made.output)
    return MemoryPlan(budget_nbytes=budget_nbytes, stages=stages)


def check_memory(models: PlannedModels, made: GenerationPlan, *, runtime: Runtime) -> None:
    """Refuse a run that does not fit into the memory there is, before anything is loaded.

    Raises:
        BudgetError: if a stage does not fit, saying what would.
    """
    compute = runtime.precision.compute
    room = None if runtime.free_nbytes is None else runtime.free_nbytes()
    if runtime.budget_nbytes is not None:
        budget = runtime.budget_nbytes()
        plan_memory(models, made, budget_nbytes=budget, compute=compute, vae_nbytes=room)
    elif room is not None:
        config = models.detail_vae
        plan_encode(config, made.output, compute=compute, budget_nbytes=room)
        plan_decode(config, made.output, compute=compute, budget_nbytes=room)


def dit_nbytes(
    config: DiTConfig, *, compute: torch.dtype, packed_nbytes: int | None = None
) -> tuple[int, int]:
    """Give the bytes of one block's weights, and of all weights outside the blocks."""
    total = packed_nbytes or compute.itemsize * dit_parameters(config)
    block = total * block_parameters(config) // dit_parameters(config)
    return block, total - config.layers * block


@dataclass(frozen=True)
class _Fit:
    budget_nbytes: int
    compute: torch.dtype
    vae_nbytes: int | None

    def dit(self, config: DiTConfig, step: Step, packed_nbytes: int | None) -> StageMemory:
        block, fixed = dit_nbytes(config, compute=self.compute, packed_nbytes=packed_nbytes)
        made: Residency = fit_residency(
            blocks=config.layers,
            block_nbytes=block,
            fixed_nbytes=fixed,
            working_nbytes=step.nbytes(config, compute=self.compute),
            budget_nbytes=self.budget_nbytes,
        )
        return StageMemory(
            words=made.words,
            device_nbytes=made.device_nbytes,
            host_nbytes=fixed + config.layers * block,
        )

    def encode(self, config: VAEConfig, shape: PixelShape) -> StageMemory:
        room = self._beside_weights(config, shape)
        return _vae(plan_encode(config, shape, compute=self.compute, budget_nbytes=room))

    def decode(self, config: VAEConfig, shape: PixelShape) -> StageMemory:
        room = self._beside_weights(config, shape)
        return _vae(plan_decode(config, shape, compute=self.compute, budget_nbytes=room))

    def _beside_weights(self, config: VAEConfig, shape: PixelShape) -> int:
        if self.vae_nbytes is not None:
            return self.vae_nbytes
        whole = decode_peak(config, shape.height, shape.width, self.compute, WHOLE)
        return self.budget_nbytes - whole.weights_nbytes


def _vae(made: VaePlan) -> StageMemory:
    banding = made.banding
    parked = made.peak.state_nbytes if banding.parks else 0
    words = "whole frames"
    if not banding.is_whole:
        words = f"{banding.bands} bands over {banding.levels} levels"
        words += f", {_gb(parked)} of state parked in host memory" if banding.parks else ""
    return StageMemory(
        words=words,
        device_nbytes=made.peak.nbytes,
        host_nbytes=made.peak.weights_nbytes + parked,
    )


def _gb(nbytes: int) -> str:
    return f"{nbytes / 1e9:.1f} GB"
