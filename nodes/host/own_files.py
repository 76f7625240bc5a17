"""The files that a user has chosen: all looked into first, then loaded through ComfyUI."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...swift_core.errors import CheckpointError
from ...swift_core.weights.checkpoint import Checkpoint
from ..types import CoreMotionModel
from .files import (
    NONE,
    add_lora,
    check_dit,
    check_vae,
    inspect_file,
    load_model,
    load_text_encoder,
    load_vae,
)

_SLOTS = {
    "motion_high": "diffusion_models",
    "motion_low": "diffusion_models",
    "detail": "diffusion_models",
    "motion_vae": "vae",
    "detail_vae": "vae",
}

STAGE1 = "an image-to-video DiT (36 or 48 input channels)"
STAGE2 = "a DiT with 48 or 96 input channels"
WAN21_VAE, WAN22_VAE = "wan_2.1_vae (16 channels)", "wan2.2_vae (48 channels)"


def load_own_files(
    *, text_encoder: str = NONE, weight_format: str = "default", **chosen: Any
) -> tuple[CoreMotionModel | None, Any, Any, Any]:
    """Load motion model, detail model, Stage II's VAE and CLIP; None where nothing is chosen.

    Args:
        chosen: file names by slot, ``"none"`` or absent for none; ``<slot>_lora`` and
            ``<slot>_lora_strength``.

    Raises:
        CheckpointError: if a file is in the wrong slot or broken, or a stage lacks its VAE; no
            weight has been read then.
    """
    files = {
        slot: inspect_file(folder, chosen[slot])
        for slot, folder in _SLOTS.items()
        if chosen.get(slot, NONE) != NONE
    }
    if not files and text_encoder == NONE:
        raise CheckpointError(
            'no file is chosen: choose motion_high and detail, or set models to "swift-tiny '
            '(bundled)".'
        )
    _check_motion(files)
    _check_detail(files)
    shared: dict[Path, Any] = {}

    def model(slot: str) -> Any:
        # Stage I and II may be one file: it is loaded once.
        if slot not in files:
            return None
        key = files[slot].path
        if key not in shared:
            shared[key] = load_model(files[slot], weight_format)
        lora, strength = chosen.get(f"{slot}_lora", NONE), chosen.get(f"{slot}_lora_strength", 1.0)
        return add_lora(shared[key], f"{slot}_lora", lora, strength)

    def vae(slot: str) -> Any:
        if slot not in files:
            return None
        key = files[slot].path
        if key not in shared:
            shared[key] = load_vae(files[slot])
        return shared[key]

    motion = None
    if "motion_high" in files:
        motion = CoreMotionModel(
            high=model("motion_high"), low=model("motion_low"), vae=vae("motion_vae")
        )
    clip = None if text_encoder == NONE else load_text_encoder("text_encoder", text_encoder)
    return motion, model("detail"), vae("detail_vae"), clip


def _check_motion(files: Mapping[str, Checkpoint]) -> None:
    """Refuse what cannot be Stage I."""
    if "motion_high" not in files:
        if "motion_low" in files:
            raise CheckpointError(
                "motion_low is chosen without motion_high: one model alone belongs in motion_high."
            )
        return
    channels = check_dit("motion_high", files["motion_high"], (36, 48), STAGE1)
    if "motion_low" in files:
        other = f"the other expert of {files['motion_high'].path.name}"
        check_dit("motion_low", files["motion_low"], (channels,), other)
    latents, what = (16, WAN21_VAE) if channels == 36 else (48, WAN22_VAE)
    _need("motion_vae", files, what)
    check_vae("motion_vae", files["motion_vae"], latents, what)


def _check_detail(files: Mapping[str, Checkpoint]) -> None:
    """Refuse what cannot be Stage II."""
    if "detail" in files:
        check_dit("detail", files["detail"], (48, 96), STAGE2)
        _need("detail_vae", files, WAN22_VAE)
    if "detail_vae" in files:
        check_vae("detail_vae", files["detail_vae"], 48, WAN22_VAE)


def _need(slot: str, files: Mapping[str, Checkpoint], what: str) -> None:
    if slot not in files:
        raise CheckpointError(f"{slot} is none: choose {what} from ComfyUI's vae folder.")
