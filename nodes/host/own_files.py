"""The files that a user has chosen: all looked into first, then loaded through ComfyUI."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ...swift_core.errors import CheckpointError
from ...swift_core.weights.checkpoint import Checkpoint
from ..types import CoreMotionModel
from .files import (
    NONE,
    check_dit,
    check_lora,
    check_text_encoder,
    check_there,
    check_vae,
    inspect_file,
)
from .loading import WEIGHT_FORMATS, load_model, load_text_encoder, load_vae
from .loras import ChosenLora, add_lora

_SLOTS = {
    "motion_high": "diffusion_models",
    "motion_low": "diffusion_models",
    "detail": "diffusion_models",
    "motion_vae": "vae",
    "detail_vae": "vae",
}

_LORA_SLOTS = ("motion_high", "motion_low", "detail")

FOLDERS = {
    **_SLOTS,
    "text_encoder": "text_encoders",
    **{f"{slot}_lora{turn}": "loras" for slot in _LORA_SLOTS for turn in ("", "_2")},
}
"""ComfyUI's folder for the file of every slot."""

STAGE1 = "an image-to-video DiT (36 or 48 input channels)"
STAGE2 = "a DiT with 48 or 96 input channels"
WAN21_VAE, WAN22_VAE = "wan_2.1_vae (16 channels)", "wan2.2_vae (48 channels)"


def load_own_files(
    *,
    text_encoder: str = NONE,
    weight_format: str = "default",
    budget_nbytes: int | None = None,
    **chosen: Any,
) -> tuple[CoreMotionModel | None, Any, Any, Any]:
    """Load motion model, detail model, Stage II's VAE and CLIP; None where nothing is chosen.

    Args:
        budget_nbytes: what a VAE may take, weights and work together; None: what there is. The
            others are ComfyUI's to fit.
        chosen: file names by slot, ``"none"`` or absent for none; ``<slot>_lora``,
            ``<slot>_lora_2``, and the ``_strength`` of each.

    Raises:
        CheckpointError: if a file is in the wrong slot or broken, or a stage lacks its VAE; no
            weight has been read then.
    """
    if weight_format not in WEIGHT_FORMATS:
        raise CheckpointError(
            f"weight_format is {weight_format!r}; choose one of {', '.join(WEIGHT_FORMATS)}."
        )
    files = {
        slot: inspect_file(slot, folder, chosen[slot])
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
    loras = {slot: _loras(slot, chosen, files.get(slot)) for slot in _LORA_SLOTS}
    text = None
    if text_encoder != NONE:
        text = inspect_file("text_encoder", "text_encoders", text_encoder)
        check_text_encoder("text_encoder", text)

    opened = _Opened(files, loras, weight_format, budget_nbytes)
    motion = None
    if "motion_high" in files:
        motion = CoreMotionModel(
            high=opened.model("motion_high"),
            low=opened.model("motion_low"),
            vae=opened.vae("motion_vae"),
        )
    clip = None if text is None else load_text_encoder(text)
    return motion, opened.model("detail"), opened.vae("detail_vae"), clip


def check_chosen(chosen: Mapping[str, Any]) -> None:
    """Refuse files that are not there, before anything runs; what they are is looked at later.

    Args:
        chosen: file names by slot, ``"none"`` for none; None where another node will give the name.

    Raises:
        CheckpointError: naming all that are not there.
    """
    names = {slot: name for slot, name in chosen.items() if name not in (NONE, None)}
    check_there((slot, FOLDERS[slot], name) for slot, name in names.items())


def _loras(slot: str, chosen: Mapping[str, Any], dit: Checkpoint | None) -> tuple[ChosenLora, ...]:
    """Look into the LoRAs of a slot: those that do anything, in turn."""
    found: list[ChosenLora] = []
    for place in (f"{slot}_lora", f"{slot}_lora_2"):
        name, strength = chosen.get(place, NONE), chosen.get(f"{place}_strength", 1.0)
        if name == NONE or strength == 0:
            continue
        if dit is None:
            raise CheckpointError(
                f"{place}: {name} is chosen, but {slot}, which it is for, is none: choose a model "
                f"there, or set {place} to none."
            )
        found.append(check_lora(place, inspect_file(place, "loras", name), strength, dit))
    return tuple(found)


class _Opened:
    """Load each file once: Stage I and II may share a model or a VAE."""

    def __init__(
        self,
        files: Mapping[str, Checkpoint],
        loras: Mapping[str, tuple[ChosenLora, ...]],
        weight_format: str,
        budget_nbytes: int | None,
    ) -> None:
        self._files = files
        self._loras = loras
        self._weight_format = weight_format
        self._budget_nbytes = budget_nbytes
        self._loaded: dict[Path, Any] = {}

    def model(self, slot: str) -> Any:
        """Load the DiT of a slot, and put its LoRAs onto it, one after the other."""
        model = self._load(slot, partial(load_model, weight_format=self._weight_format))
        for lora in self._loras.get(slot, ()):
            model = add_lora(model, lora)
        return model

    def vae(self, slot: str) -> Any:
        """Load the VAE of a slot."""
        return self._load(slot, partial(load_vae, budget_nbytes=self._budget_nbytes))

    def _load(self, slot: str, load: Callable[[Checkpoint], Any]) -> Any:
        if slot not in self._files:
            return None
        file = self._files[slot]
        if file.path not in self._loaded:
            self._loaded[file.path] = load(file)
        return self._loaded[file.path]


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
        if files["motion_low"].config != files["motion_high"].config:
            raise CheckpointError(
                f"motion_low: {files['motion_low'].path.name} is of another architecture than "
                f"{files['motion_high'].path.name}: choose the two experts of one model."
            )
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
