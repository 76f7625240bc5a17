"""What travels between our nodes where ComfyUI has no type of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from ..swift_core.model.config import DiTConfig
from ..swift_core.model.dit import WanDiT
from ..swift_core.vae.autoencoder import WanVAE
from ..swift_core.vae.config import VAEConfig
from ..swift_core.weights.slots import Slot

MotionModelType = io.Custom("SWIFT_MOTION_MODEL")
DetailModelType = io.Custom("SWIFT_DETAIL_MODEL")
SegmentsType = io.Custom("SWIFT_SEGMENTS")


@dataclass(frozen=True, kw_only=True)
class OwnMotionModel:
    """Stage I of a model set of ours: what ``make_motion`` takes.

    Attributes:
        motion_high: Stage I at high noise levels; at all of them if there is no other.
        motion_low: Stage I at low noise levels.
        motion_vae: its VAE.
        boundary: sigma from which on the high-noise expert works.
        budget_nbytes: what one of its models may take, weights and work together; None: what there
            is.
    """

    motion_high: Slot[DiTConfig, WanDiT]
    motion_low: Slot[DiTConfig, WanDiT] | None
    motion_vae: Slot[VAEConfig, WanVAE]
    boundary: float
    budget_nbytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class CoreMotionModel:
    """Stage I as models of ComfyUI.

    Attributes:
        high: MODEL for high noise levels; for all of them if there is no other.
        low: MODEL for low noise levels.
        vae: VAE of both.
    """

    high: Any
    low: Any | None
    vae: Any

    def get_models(self) -> list[Any]:
        """List the patchers, for a ComfyUI that keeps what the prompt at hand uses."""
        experts = [self.high] if self.low is None else [self.high, self.low]
        return [*experts, self.vae.patcher]

    def is_dynamic(self) -> bool:
        """Tell a ComfyUI that streams weights whether it does so with all of these."""
        return all(model.is_dynamic() for model in self.get_models())


@dataclass(frozen=True, kw_only=True)
class OwnDetailModel:
    """Stage II of a model set of ours.

    Attributes:
        slot: its DiT.
        carry: share of the picture's detail that it wants in the enlarged motion clip.
        budget_nbytes: what it may take, weights and work together; None: what there is.
    """

    slot: Slot[DiTConfig, WanDiT]
    carry: float = 0.0
    budget_nbytes: int | None = None
