"""The set of models that comes with the pack."""

from __future__ import annotations

from typing import Any

from ...swift_core.precision import FP32
from ...swift_core.weights.bundled import open_bundled_set
from ..types import OwnDetailModel, OwnMotionModel
from .clip import SwiftCLIP
from .exact_vae import SwiftVAE
from .memory import managed_slot

BUNDLED = "swift-tiny (bundled)"


def load_bundled(
    budget_nbytes: int | None = None,
) -> tuple[OwnMotionModel, OwnDetailModel, Any, Any]:
    """Open the bundled set: motion model, detail model, VAE, CLIP; its few weights are fp32.

    Args:
        budget_nbytes: what each may take, weights and work together; None: what there is.
    """
    models = open_bundled_set()
    motion = OwnMotionModel(
        motion_high=managed_slot(models.motion_high, FP32),
        motion_low=models.motion_low and managed_slot(models.motion_low, FP32),
        motion_vae=managed_slot(models.motion_vae, FP32),
        boundary=models.boundary,
        budget_nbytes=budget_nbytes,
    )
    detail = OwnDetailModel(
        slot=managed_slot(models.detail, FP32), carry=models.carry, budget_nbytes=budget_nbytes
    )
    vae = SwiftVAE(models.detail_vae.load(FP32), FP32.compute)
    vae.budget_nbytes = budget_nbytes
    return motion, detail, vae, SwiftCLIP(models.text.load(FP32))
