"""Adaptive layer norm: how a noise level shifts, scales and gates the tokens.

Timesteps are per latent frame (0 for conditions), and so is everything derived from them: a
modulation is ``"b t 1 d"`` and is broadcast over a frame's tokens, never built per token. At
17,600 tokens the per-token form would be 1.3 GB in every step.
"""

import torch
from torch.nn import functional as F

from ..shapes import Float, Tensor


def timestep_sinusoids(timestep: Float[Tensor, "b t"], dim: int) -> Float[Tensor, "b t dim"]:
    """Encode timesteps as cosines, then sines, of falling frequency; fp32 on the same device.

    Source: Wan-Video/Wan2.2@42bf4cf:wan/modules/model.py, sinusoidal_embedding_1d.
    """
    half = dim // 2
    frequencies = 10000.0 ** -(torch.arange(half, dtype=torch.float64) / half)
    angles = timestep.to("cpu", torch.float64).unsqueeze(-1) * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1).to(timestep.device, torch.float32)


def modulate(
    tokens: Float[Tensor, "b t s d"],
    *,
    shift: Float[Tensor, "b t 1 d"],
    scale: Float[Tensor, "b t 1 d"],
    eps: float,
) -> Float[Tensor, "b t s d"]:
    """Normalise tokens without learned weights, then scale and shift them, in fp32."""
    normed = F.layer_norm(tokens.float(), tokens.shape[-1:], eps=eps)
    return torch.addcmul(shift, normed, 1 + scale).to(tokens.dtype)


def add_gated(
    tokens: Float[Tensor, "b t s d"],
    update: Float[Tensor, "b t s d"],
    *,
    gate: Float[Tensor, "b t 1 d"],
) -> Float[Tensor, "b t s d"]:
    """Add an update through its gate, in fp32."""
    return torch.addcmul(tokens.float(), update.float(), gate).to(tokens.dtype)
