"""What a run takes of a device's memory, stage by stage, before a weight is read.

Stages take turns, so the largest of them counts. Each is fitted for itself: a DiT keeps as many
blocks resident as there is room for, a VAE runs in as few bands as fit. Where Stage II's VAE fits
beside its DiT, finished segments are decoded while later ones still have to be sampled.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..errors import BudgetError
from ..geometry import PixelShape
from ..model.config import DiTConfig
from ..vae.bands import Banding
from ..weights.lora_sizes import AddedBytes, added_nbytes
from .fit import Fit, Fitted, FittedDiT, FittedVAE, StageMemory, in_gb
from .plan import GenerationPlan, size_multiple
from .resources import Resources
from .work import PlannedModels

_VAES = ("motion: decode", "reference", "decode")


@dataclass(frozen=True, kw_only=True)
class Between:
    """How finished segments are decoded while later ones wait.

    Attributes:
        banding: of the decode.
        nbytes: that the VAE wants beside the DiT and its work.
    """

    banding: Banding
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What a run takes, by stage in order.

    Attributes:
        budget_nbytes: what it was fitted into; None: only the VAEs were, beside their weights.
        stages: each by its name.
        dits: where DiTs will be that were not fitted, in words.
        between: how finished segments are decoded while later ones wait; None: afterwards.
    """

    budget_nbytes: int | None
    stages: Mapping[str, StageMemory]
    dits: str = ""
    between: Between | None = None

    @property
    def device_nbytes(self) -> int:
        """The most that is on the device at a time."""
        return max(stage.device_nbytes for stage in self.stages.values())

    @property
    def host_nbytes(self) -> int:
        """The most that a stage keeps in host memory."""
        return max(stage.host_nbytes for stage in self.stages.values())

    def as_data(self) -> dict[str, Any]:
        """Give it as plain data, for JSON."""
        return {
            "budget_nbytes": self.budget_nbytes,
            "device_nbytes": self.device_nbytes,
            "host_nbytes": self.host_nbytes,
            "decodes_between_segments": self.between is not None,
            "stages": {
                name: {
                    "how": stage.words,
                    **stage.placed,
                    "device_nbytes": stage.device_nbytes,
                    "host_nbytes": stage.host_nbytes,
                    "copied_nbytes": stage.copied_nbytes,
                }
                for name, stage in self.stages.items()
            },
        }

    def describe(self) -> str:
        """Say it in words, a line for each stage."""
        budget = self.budget_nbytes
        of = "for a VAE" if budget is None else f"of {in_gb(budget)}"
        lines = [
            f"memory    {in_gb(self.device_nbytes)} {of} on the device, "
            f"{in_gb(self.host_nbytes)} in host memory"
        ]
        lines += [
            f"          {in_gb(stage.device_nbytes):>8}  {name}: {stage.words}"
            for name, stage in self.stages.items()
        ]
        if self.dits:
            lines.append(f"{'':20}DiTs: {self.dits}")
        return "\n".join(lines)


def plan_memory(
    models: PlannedModels, made: GenerationPlan, resources: Resources, *, compute: torch.dtype
) -> MemoryPlan:
    """Fit every stage of a run into a device's memory.

    Args:
        resources: without a bound for the device only the VAEs are fitted.
        compute: number format of weights that are not packed, and of all work.

    Raises:
        BudgetError: if a stage does not fit, saying which change would make it fit.
    """
    budget_nbytes, dits = resources.device_nbytes, resources.dits
    fit = Fit(budget_nbytes or 0, compute, resources.vae_nbytes, resources.host_nbytes)
    wanted = _wanted(models, made, fit)
    if budget_nbytes is None:
        wanted = {name: wanted[name] for name in wanted if name in _VAES}
    fitted: dict[str, Fitted] = {}
    refused: dict[str, BudgetError] = {}
    for name, attempt in wanted.items():
        try:
            fitted[name] = attempt()
        except BudgetError as error:
            refused[name] = error
    if refused:
        beside = budget_nbytes is None
        raise _with_ways_out(refused, made, multiple=size_multiple(models), beside_weights=beside)
    stages = {name: one.stage for name, one in fitted.items()}
    if budget_nbytes is None:
        return MemoryPlan(budget_nbytes=None, stages=stages, dits=dits)
    refining, decoding = fitted["refine"], fitted["decode"]
    assert isinstance(refining, FittedDiT)
    assert isinstance(decoding, FittedVAE)
    together = _together(refining, decoding)
    if refining.residency.streamed or together > budget_nbytes:
        return MemoryPlan(budget_nbytes=budget_nbytes, stages=stages)
    words = f"{decoding.stage.words}, each segment as soon as it is finished"
    stages["refine"] = replace(refining.stage, device_nbytes=together)
    stages["decode"] = replace(decoding.stage, device_nbytes=together, words=words)
    return MemoryPlan(
        budget_nbytes=budget_nbytes,
        stages=stages,
        between=Between(
            banding=decoding.plan.banding,
            nbytes=together - refining.residency.device_nbytes,
        ),
    )


def _wanted(
    models: PlannedModels, made: GenerationPlan, fit: Fit
) -> dict[str, Callable[[], Fitted]]:
    """List the stages of a run, and how each is fitted."""

    def added(config: DiTConfig, packed_nbytes: int | None, *slots: str) -> AddedBytes:
        """Give what LoRAs add to a DiT, or to the one of several to whose parts they add most."""
        packs = packed_nbytes is not None
        each = [
            added_nbytes(models.loras.get(slot, ()), config, compute=fit.compute, packs=packs)
            for slot in slots
        ]
        return AddedBytes(
            block=max(one.block for one in each), fixed=max(one.fixed for one in each)
        )

    detail_packed = models.detail_packed_nbytes
    on_detail = added(models.detail, detail_packed, "detail")
    wanted: dict[str, Callable[[], Fitted]] = {
        "reference": lambda: fit.encode(models.detail_vae, made.output),
        "refine": lambda: fit.dit(models.detail, made.detail_step, detail_packed, on_detail),
        "decode": lambda: fit.decode(models.detail_vae, made.output),
    }
    if not made.has_motion:
        packed = models.motion_packed_nbytes
        on_motion = added(models.motion, packed, "motion_high", "motion_low")
        wanted = {
            "motion": lambda: fit.dit(models.motion, made.motion_step, packed, on_motion),
            "motion: decode": lambda: fit.decode(models.motion_vae, made.motion),
            **wanted,
        }
    if models.text is not None:
        config, packed_text = models.text, models.text_packed_nbytes
        wanted = {"prompt": lambda: fit.text(config, packed_text), **wanted}
    return wanted


def _together(refining: FittedDiT, decoding: FittedVAE) -> int:
    """Tell what a DiT and a VAE take that work in turns, with all weights there."""
    residency, peak = refining.residency, decoding.plan.peak
    weights = residency.device_nbytes - residency.working_nbytes + peak.weights_nbytes
    sampling = residency.working_nbytes + peak.state_nbytes
    return weights + max(sampling, refining.kept_nbytes + peak.working_nbytes)


def _with_ways_out(
    refused: Mapping[str, BudgetError],
    made: GenerationPlan,
    *,
    multiple: int,
    beside_weights: bool,
) -> BudgetError:
    """Say what did not fit first, and which changes would make everything fit.

    Args:
        beside_weights: whether what is short is room beside weights: then the stage that wants most
            is told of, and that it wants so much is a way out.
    """
    share = min(error.share for error in refused.values())
    least = max(error.least_nbytes for error in refused.values())
    stage, first = next(
        (stage, error)
        for stage, error in refused.items()
        if error.least_nbytes == least or not beside_weights
    )
    ways: list[str] = []
    shorter = _shorter_segments(made, share) if set(refused) == {"refine"} else 0
    if shorter:
        ways.append(f"in segments of {shorter} latent frame{'s' if shorter > 1 else ''}")
    smaller = _smaller(made.output, share, multiple=multiple)
    if smaller is not None:
        ways.append(f"as {smaller.width}x{smaller.height}")
    ways.append("where that much is free" if beside_weights else f"with {least / 1e9:.1f} GB")
    return BudgetError(
        f"{stage}: {first}. It would fit {', or '.join(ways)}.",
        share=share,
        least_nbytes=least,
    )


def _shorter_segments(made: GenerationPlan, share: float) -> int:
    """Tell with how many targets a window would be small enough; 0 if with none."""
    settings = made.segments.settings
    conditions = 1 + settings.neighbors + settings.right_neighbors
    fits = int(share * made.segments.largest) - conditions
    return max(0, min(settings.segment_length - 1, fits))


def _smaller(output: PixelShape, share: float, *, multiple: int) -> PixelShape | None:
    """Give the largest video of about that shape and a share of the area; None if there is none."""
    scale = math.sqrt(min(share, 1.0))
    sides = [int(scale * side / multiple) * multiple for side in (output.height, output.width)]
    if not all(sides):
        return None
    return replace(output, height=sides[0], width=sides[1])
