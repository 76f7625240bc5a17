"""LATENT: ComfyUI's raw latents, and the core's normalised ones."""

from __future__ import annotations

from typing import Any

import comfy.model_management

from ...swift_core.errors import GeometryError
from ...swift_core.geometry import PixelShape
from ...swift_core.shapes import Float, Tensor
from .vae import open_vae, vae_config


def to_latent(latent: Float[Tensor, "1 c t h w"], vae: Any) -> dict[str, Any]:
    """Give a normalised latent as LATENT: core's nodes and ours read it."""
    raw = open_vae(vae, memory_required=0).denormalize(latent.float())
    return {"samples": raw.to(comfy.model_management.intermediate_device())}


def from_latent(samples: dict[str, Any], vae: Any) -> Float[Tensor, "1 c t h w"]:
    """Take a normalised latent out of LATENT.

    Raises:
        GeometryError: if it is no single clip of this VAE's.
    """
    raw = samples["samples"]
    channels = vae_config(vae).latent_channels
    shape = "x".join(str(side) for side in raw.shape)
    if raw.ndim != 5 or raw.shape[1] != channels:
        raise GeometryError(
            f"the latent is {shape}; this VAE decodes clips of {channels} channels (1x{channels}x"
            "frames x height x width): connect the VAE that the latent was made with."
        )
    if len(raw) != 1:
        raise GeometryError(
            f"the latent holds {len(raw)} clips; decode one at a time (LatentFromBatch)."
        )
    return open_vae(vae, memory_required=0).normalize(raw.float())


def encode_memory(vae: Any, output: PixelShape) -> float:
    """Give ComfyUI's own estimate of what encoding a clip takes, in bytes."""
    shape = (1, 3, output.pixel_frames, output.height, output.width)
    return vae.memory_used_encode(shape, vae.vae_dtype)


def decode_memory(vae: Any, samples: dict[str, Any]) -> float:
    """Give ComfyUI's own estimate of what decoding a latent takes, in bytes."""
    return vae.memory_used_decode(samples["samples"].shape, vae.vae_dtype)
