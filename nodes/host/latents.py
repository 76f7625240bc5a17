"""LATENT and IMAGE: ComfyUI's raw latents and pictures, and the core's normalised latents.

The VAE that a latent belongs to turns raw ones into normalised ones, and clips into latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import comfy.model_management

from ...swift_core.errors import GeometryError
from ...swift_core.geometry import PixelShape, pixel_frames_of
from ...swift_core.media.sources import ClipInMemory, chunks_of
from ...swift_core.progress import Observer, Phase
from ...swift_core.shapes import Float, Tensor
from ...swift_core.stages.pixels import decode_clip, encode_clip, to_pixels
from .vae import (
    budget_of,
    decode_memory,
    encode_memory,
    open_vae,
    saying_what_helps,
    vae_config,
    vae_runtime,
    without_weights,
)


def to_latent(latent: Float[Tensor, "1 c t h w"], vae: Any) -> dict[str, Any]:
    """Give a normalised latent as LATENT: core's nodes and ours read it."""
    raw = without_weights(vae_config(vae)).denormalize(latent.float())
    return {"samples": raw.to(comfy.model_management.intermediate_device())}


def from_latent(samples: dict[str, Any], vae: Any) -> Float[Tensor, "1 c t h w"]:
    """Take a normalised latent out of LATENT.

    Raises:
        GeometryError: if it is no single clip of this VAE's.
    """
    raw = samples["samples"]
    clip_shape(samples, vae)
    if len(raw) != 1:
        raise GeometryError(
            f"the latent holds {len(raw)} clips; decode one at a time (LatentFromBatch)."
        )
    return without_weights(vae_config(vae)).normalize(raw.float())


def clip_shape(samples: dict[str, Any], vae: Any) -> PixelShape:
    """Tell how large the clips of a LATENT are.

    Raises:
        GeometryError: if they are no clips of this VAE's.
    """
    raw = samples["samples"]
    config = vae_config(vae)
    channels, size = config.latent_channels, config.compression
    if raw.ndim != 5 or raw.shape[1] != channels:
        shape = "x".join(str(side) for side in raw.shape)
        raise GeometryError(
            f"the latent is {shape}; this VAE decodes clips of {channels} channels (1x{channels}x"
            "frames x height x width): connect the VAE that the latent was made with."
        )
    return PixelShape(
        pixel_frames=pixel_frames_of(raw.shape[2], time=size.time),
        height=size.space * raw.shape[3],
        width=size.space * raw.shape[4],
    )


def decode_stream(
    latent: Float[Tensor, "1 c t h w"], vae: Any, *, observe: Observer
) -> Iterator[Float[Tensor, "p h w 3"]]:
    """Decode a normalised latent as a stream of clips of 1, then 4 frames.

    Raises:
        BudgetError: if there is too little memory for it.
    """
    # What was sampled must not be lost: with less room than planned, finer bands are tried.
    runtime = replace(vae_runtime(vae, observe), is_under_way=True)
    shape = clip_shape({"samples": latent}, vae)
    with saying_what_helps(budget_of(vae)):
        own = open_vae(vae, memory_required=decode_memory(vae, shape))
        yield from decode_clip(own, latent, phase=Phase.DECODE, runtime=runtime)


def decode_images(
    latent: Float[Tensor, "1 c t h w"],
    vae: Any,
    *,
    into: Float[Tensor, "p i j 3"],
    observe: Observer,
) -> None:
    """Decode a normalised latent into memory that is there already.

    Raises:
        BudgetError: if there is too little memory for it.
    """
    filled = 0
    for chunk in decode_stream(latent, vae, observe=observe):
        into[filled : filled + len(chunk)] = chunk
        filled += len(chunk)


def encode_images(
    clip: Float[Tensor, "p h w 3"], vae: Any, *, observe: Observer
) -> Float[Tensor, "1 c t i j"]:
    """Encode a clip to a raw latent.

    Raises:
        BudgetError: if there is too little memory for it.
        GeometryError: if it does not fill whole latent values.
    """
    frames, height, width = clip.shape[:3]
    shape = PixelShape(pixel_frames=frames, height=height, width=width)
    runtime = vae_runtime(vae, observe)
    bring = partial(to_pixels, runtime=runtime)
    with saying_what_helps(budget_of(vae)):
        own = open_vae(vae, memory_required=encode_memory(vae, shape))
        latent = encode_clip(
            own,
            lambda: map(bring, chunks_of(ClipInMemory(clip), time=own.config.compression.time)),
            shape=shape,
            phase=Phase.REFERENCE,
            runtime=runtime,
        )
    return own.denormalize(latent)
