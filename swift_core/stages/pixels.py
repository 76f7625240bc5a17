"""Between clips and latents: the VAEs as streams of chunks.

A clip is ``"p h w 3"`` in [0, 1] on the CPU (ComfyUI's IMAGE batch); a VAE works on
``"1 3 p h w"`` in [-1, 1] on the device. A chunk is 1 pixel frame, then ``time`` each.
"""

from collections.abc import Iterable, Iterator
from itertools import chain

import torch
from einops import rearrange

from ..progress import Phase, observed
from ..shapes import Float, Tensor
from ..vae.autoencoder import WanVAE
from .runtime import Runtime


def to_pixels(clip: Float[Tensor, "p h w 3"], runtime: Runtime) -> Float[Tensor, "1 3 p h w"]:
    """Bring frames to the VAE's form."""
    return runtime.place(rearrange(clip, "p h w c -> 1 c p h w") * 2 - 1)


def to_clip(pixels: Float[Tensor, "1 3 p h w"]) -> Float[Tensor, "p h w 3"]:
    """Bring a VAE's pixels to a clip on the CPU."""
    clip = rearrange(pixels, "1 c p h w -> p h w c").float()
    return clip.add(1).div(2).clamp(0, 1).cpu()


def chunk_clip(clip: Float[Tensor, "p h w 3"], *, time: int) -> Iterator[Tensor]:
    """Cut a clip of ``time * n + 1`` frames as a causal VAE takes it: 1, then ``time`` each."""
    return chain((clip[:1],), (clip[at : at + time] for at in range(1, len(clip), time)))


def encode_clip(
    vae: WanVAE,
    chunks: Iterable[Float[Tensor, "1 3 p h w"]],
    *,
    latent_frames: int,
    phase: Phase,
    runtime: Runtime,
) -> Float[Tensor, "1 c t h w"]:
    """Encode a stream of pixel chunks into a latent, fp32, allocated once.

    Args:
        latent_frames: how many chunks there are.
    """
    stream = observed(
        vae.encode_stream(chunks), phase=phase, steps=latent_frames, observe=runtime.observe
    )
    latent: Tensor | None = None
    for index, frame in enumerate(stream):
        if latent is None:
            _, channels, _, height, width = frame.shape
            latent = torch.empty((1, channels, latent_frames, height, width), device=runtime.device)
        latent[:, :, index] = frame[:, :, 0]
    assert latent is not None, "a clip has at least one chunk"
    return latent


def decode_clip(
    vae: WanVAE, latent: Float[Tensor, "1 c t h w"], *, phase: Phase, runtime: Runtime
) -> Iterator[Float[Tensor, "p h w 3"]]:
    """Decode a latent as a stream of clips of 1, then 4 frames each, in order."""
    stream = vae.decode_stream(runtime.place(latent))
    steps = latent.shape[2]
    for pixels in observed(stream, phase=phase, steps=steps, observe=runtime.observe):
        yield to_clip(pixels)
