"""Where a file belongs in ComfyUI: what a loader says to somebody who put it elsewhere.

Said from what a file is: which inputs of our loader node take it and in which of ComfyUI's folders
it lies, or, where it is of no use to the loader, what is.
"""

from dataclasses import dataclass

from ..model.config import DiTConfig
from ..vae.config import VAEConfig
from .checkpoint import Checkpoint, Kind
from .families import foreign_part, lora_widths
from .latents import is_saved_latent

UMT5_FILE = "umt5_xxl_fp8_e4m3fn_scaled.safetensors"
"""The text encoder that works everywhere in ComfyUI, as Comfy-Org publishes it."""

_MODELS = "diffusion_models"

_DITS: dict[int, tuple[str, ...]] = {
    36: ("motion_high", "motion_low"),
    48: ("detail", "motion_high"),
    96: ("detail",),
}
"""Inputs by input channels."""

_VAES: dict[int, tuple[str, ...]] = {16: ("motion_vae",), 48: ("detail_vae", "motion_vae")}
"""Inputs by latent channels."""

_LORAS: dict[int, tuple[str, ...]] = {
    5120: ("motion_high_lora", "motion_low_lora"),
    3072: ("detail_lora", "motion_high_lora"),
    1536: (),
}
"""Inputs by the width of the published models."""

_ANY_LORA = ("motion_high_lora", "motion_low_lora", "detail_lora")
_CHOOSE_DIT = "choose Wan2.2-I2V-A14B or Wan2.2-TI2V-5B"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a file belongs.

    Attributes:
        slots: inputs of the loader node that take it, the likeliest first; empty if none does.
        folder: the folder within ComfyUI's models where it should lie; empty if there is none.
        advice: what to do with it, as the end of a sentence.
    """

    slots: tuple[str, ...] = ()
    folder: str = ""
    advice: str


def place_of(checkpoint: Checkpoint) -> Place:
    """Say where a file belongs."""
    config = checkpoint.config
    if checkpoint.kind is Kind.LORA:
        return _place_of_lora(checkpoint)
    if checkpoint.kind is Kind.DIT:
        return _place_of_dit(checkpoint)
    if checkpoint.kind is Kind.VAE:
        channels = config.latent_channels if isinstance(config, VAEConfig) else None
        slots = _VAES.get(channels, ()) if channels else ("detail_vae", "motion_vae")
        if not slots:
            return Place(folder="vae", advice="no Wan2.2 model has such a latent")
        return _place(slots, "vae")
    if checkpoint.kind is Kind.UNKNOWN:
        return _place_of_unknown(checkpoint)
    return _OTHERS[checkpoint.kind]


def _place(slots: tuple[str, ...], folder: str) -> Place:
    return Place(
        slots=slots,
        folder=folder,
        advice=f"it belongs in {' or '.join(slots)} (models/{folder})",
    )


_OTHERS = {
    Kind.TEXT_UMT5: _place(("text_encoder",), "text_encoders"),
    Kind.TEXT_T5: Place(
        folder="text_encoders",
        advice=f"it is for other models, and Wan's read UMT5: choose {UMT5_FILE} in text_encoder",
    ),
    Kind.TEXT_WORDS: Place(
        advice="it is part of a set of models, which the command line's --models takes"
    ),
    Kind.TAE: Place(
        folder="vae_approx",
        advice="it belongs in no input: ComfyUI's previews take it from models/vae_approx",
    ),
}


def _place_of_dit(checkpoint: Checkpoint) -> Place:
    extra = {part for name in checkpoint.unexpected if (part := foreign_part(name)) is not None}
    if extra:
        return Place(
            folder=_MODELS,
            advice=f"what it has beside Wan's own parts ({' and '.join(sorted(extra))}) is for "
            f"ComfyUI's own nodes: {_CHOOSE_DIT} here",
        )
    channels = checkpoint.config.in_channels if isinstance(checkpoint.config, DiTConfig) else None
    if channels is None:
        return _place(("detail", "motion_high", "motion_low"), _MODELS)
    if channels in _DITS:
        return _place(_DITS[channels], _MODELS)
    kind = "makes videos from text alone" if channels == 16 else "takes what no stage gives it"
    return Place(
        folder=_MODELS,
        advice=f"it {kind}, so it belongs in no input: {_CHOOSE_DIT}",
    )


def is_for_other_models(checkpoint: Checkpoint) -> bool:
    """Tell whether a LoRA is one that no Wan model takes, whatever its width."""
    plain = Kind.LORA.value
    return checkpoint.name == plain and checkpoint.obstacle is not None


def _place_of_lora(checkpoint: Checkpoint) -> Place:
    if is_for_other_models(checkpoint):
        return Place(folder="loras", advice=f"{checkpoint.obstacle}, so it belongs in no input")
    widths = lora_widths(checkpoint.header.tensors)
    known = [slots for width, slots in _LORAS.items() if width in widths]
    # A 14B or 5B model has neither other width; of a file that has several, nothing is said.
    slots = known[0] if len(known) == 1 else _ANY_LORA
    if not slots:
        return Place(
            folder="loras",
            advice="it is for Wan2.1-T2V-1.3B, so it belongs in no input: choose one for "
            "Wan2.2-I2V-A14B or Wan2.2-TI2V-5B",
        )
    return _place(slots, "loras")


def _place_of_unknown(checkpoint: Checkpoint) -> Place:
    tensors = checkpoint.header.tensors
    if is_saved_latent(checkpoint.header):
        return Place(advice="it is a saved latent: the command line's decode makes its video")
    if "latent_tensor" in tensors:
        return Place(advice="it is a saved latent: Load Latent opens it from ComfyUI's input")
    inside = sum("diffusion_model." in name for name in tensors)
    if 0 < inside < len(tensors):
        return Place(
            folder="checkpoints",
            advice="it belongs in models/checkpoints: load it with Load Checkpoint, and connect "
            "its MODEL, CLIP and VAE",
        )
    return Place(advice="choose another file")
