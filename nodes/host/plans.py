"""The core's one plan of a run, for ComfyUI's card: what the nodes show, and what they refuse by.

DiTs are not planned here: core MODELs are ComfyUI's to place, and it streams what does not fit.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import comfy.model_management
import torch

from ...swift_core.errors import BudgetError, CheckpointError
from ...swift_core.memory.host import free_host_nbytes
from ...swift_core.model.config import DiTConfig
from ...swift_core.progress import Phase
from ...swift_core.stages.fit import in_gb
from ...swift_core.stages.plan import PUBLISHED_MODELS, GenerationPlan
from ...swift_core.stages.resources import Resources
from ...swift_core.stages.run_plan import RunPlan, plan_run
from ...swift_core.stages.speed import USUAL_SPEED, Speed, measure_speed
from ...swift_core.stages.work import PlannedModels
from ..types import OwnDetailModel
from .guided import model_config
from .memory import most_nbytes
from .vae import (
    budget_of,
    room_beside,
    saying_what_helps,
    vae_config,
    vae_precision,
    weights_nbytes,
)

DITS = "ComfyUI keeps as much of them on the card as fits"

_VAE_FORMATS = [torch.bfloat16, torch.float16, torch.float32]
"""ComfyUI's order for Wan's VAEs."""

_MEASURING_NBYTES = 1 << 30
"""More than enough for measuring the card's speed."""

_log = logging.getLogger(__name__)


def describe_for_card(made: GenerationPlan) -> str:
    """Say what a run of Wan2.2's models will be on ComfyUI's card.

    What does not fit this card is said as the last line, and is no error: the plan may be for other
    models, or another card. So is what wants more host memory than is free: until the run there may
    be. VAEs on the CPU are not bounded.
    """
    speed = card_speed()
    device = comfy.model_management.vae_device()
    compute = comfy.model_management.vae_dtype(device, _VAE_FORMATS)
    resources = Resources(speed=speed)
    if device.type != "cpu":
        weights = weights_nbytes(PUBLISHED_MODELS.detail_vae, compute)
        room = most_nbytes(device, weights_nbytes=weights)
        resources = Resources(
            vae_nbytes=room, host_nbytes=free_host_nbytes(), dits=DITS, speed=speed
        )
    try:
        plan, short = _plan(PUBLISHED_MODELS, made, resources, compute)
    except BudgetError as error:
        unbounded = Resources(speed=speed)
        plan = plan_run(PUBLISHED_MODELS, made, unbounded, compute=compute)
        return f"{plan.describe()}\nmemory    not on this card: {error}"
    return plan.describe() + (f"\nmemory    by then {short}" if short else "")


def stage2_models(detail_model: Any, vae: Any) -> PlannedModels:
    """Tell which models are connected, without moving a weight.

    Raises:
        CheckpointError: if one is missing, or none that the core knows.
    """
    if detail_model is None or vae is None:
        raise CheckpointError(
            "there is no Stage II model or VAE: choose detail and detail_vae in Load SwiftI2V "
            "Models, or its bundled set."
        )
    own = isinstance(detail_model, OwnDetailModel)
    config: DiTConfig = detail_model.slot.config if own else model_config(detail_model)
    return replace(PUBLISHED_MODELS, detail=config, detail_vae=vae_config(vae))


def plan_with_vae(models: PlannedModels, made: GenerationPlan, vae: Any) -> RunPlan:
    """Plan a run whose VAE is a VAE input, in the memory that it may take.

    How much host memory is free may change until it is wanted, and with less than that a run is
    only slower: so that alone refuses nothing.

    Raises:
        BudgetError: if encode or decode do not fit, saying what would.
    """
    resources = Resources(
        vae_nbytes=room_beside(vae),
        host_nbytes=free_host_nbytes(),
        dits=DITS,
        speed=card_speed(),
    )
    with saying_what_helps(budget_of(vae)):
        plan, short = _plan(models, made, resources, vae_precision(vae).compute)
    if short:
        _log.warning("SwiftI2V: %s; parking the VAE's state may be slow", short)
    return plan


def _plan(
    models: PlannedModels, made: GenerationPlan, resources: Resources, compute: torch.dtype
) -> tuple[RunPlan, str]:
    """Plan a run; one that is short of host memory only as if there were enough, saying how much.

    Raises:
        BudgetError: if it does not fit the device either.
    """
    try:
        return plan_run(models, made, resources, compute=compute), ""
    except BudgetError as error:
        try:
            plan = plan_run(models, made, replace(resources, host_nbytes=None), compute=compute)
        except BudgetError:
            raise error from None
    assert plan.memory is not None, "its memory is bounded"
    wanted, free = plan.memory.host_nbytes, resources.host_nbytes or 0
    return plan, f"{in_gb(wanted)} of host memory must be free, now {in_gb(free)} are"


def describe_taken(
    made: GenerationPlan, seconds: Mapping[Phase, float], *, carry: float = 0.0, resumed: int = 0
) -> str:
    """Say what the phases of a run took, and how fast their arithmetic was.

    Args:
        seconds: of each phase, with the loading of its model.
        carry: share of the picture's detail that the reference was given.
        resumed: segments that were there already.
    """
    lines = [f"took      {sum(seconds.values()):.1f} s, loading included"]
    flops = {work.stage: work.flops for work in made.work}
    for phase, taken in seconds.items():
        words = f"{flops[phase.value] / max(taken, 1e-9) / 1e12:.3g} TFLOP/s"
        if phase is Phase.REFERENCE and carry:
            words = f"{words}, {carry:.0%} of the picture's detail carried along"
        if phase is Phase.REFINE and resumed:
            words = f"{resumed} of {len(made.segments.segments)} segments were there already"
        lines.append(f"          {taken:>6.1f} s  {phase.value}: {words}")
    return "\n".join(lines)


def card_speed() -> Speed:
    """Tell how fast ComfyUI's device is: measured once where it is a card, else a usual one's."""
    device = comfy.model_management.get_torch_device()
    if device.type != "cuda":
        return USUAL_SPEED
    try:
        return _measured(device)
    except RuntimeError as error:  # so PyTorch says that memory is short, or cannot be pinned
        _log.info("the card's speed could not be measured: %s", error)
        return USUAL_SPEED


@lru_cache(maxsize=4)
def _measured(device: torch.device) -> Speed:
    has_bf16 = comfy.model_management.should_use_bf16(device)
    comfy.model_management.free_memory(_MEASURING_NBYTES, device)
    return measure_speed(device, dtype=torch.bfloat16 if has_bf16 else torch.float16)
