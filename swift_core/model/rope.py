"""Rotary position tables over (time, height, width), at arbitrary positions in time.

A head's features are pairs (2i, 2i+1), each turned by an angle that grows with the position; the
pairs are shared out to time, height and width. Scores then depend on differences of positions.
Angles are made in float64 on the CPU: the tables per axis are tiny, and devices without float64
exist.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, repeat

from ..shapes import Float, Tensor
from .config import DiTConfig

THETA = 10000.0


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Cosine and sine of each token's angles, ``"s 1 half"`` in fp32, ``half`` = head width / 2."""

    cos: Float[Tensor, "s 1 half"]
    sin: Float[Tensor, "s 1 half"]


def axis_angles(positions: Sequence[int], dim: int) -> Float[Tensor, "length half"]:
    """Compute the angles of one axis, in float64.

    Args:
        dim: how many of a head's features belong to the axis; even.
    """
    frequencies = THETA ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    return torch.outer(torch.tensor(positions, dtype=torch.float64), frequencies)


def make_rope(
    config: DiTConfig,
    positions: Sequence[int],
    *,
    height: int,
    width: int,
    device: torch.device,
) -> Rope:
    """Build the tables for tokens ordered as time, height, width.

    Args:
        positions: position in time of each latent frame, in any order.
        height: tokens per column.
        width: tokens per row.

    Source: Wan-Video/Wan2.2@42bf4cf:wan/modules/model.py, rope_params and rope_apply.
    """
    axes = [
        axis_angles(axis, dim)
        for axis, dim in zip(
            (positions, range(height), range(width)), config.rope_dims, strict=True
        )
    ]
    sizes = {"t": len(positions), "h": height, "w": width}

    def table(values: Sequence[Tensor]) -> Tensor:
        # Only these few numbers per axis cross to the device; they are laid out over there.
        laid_out = [
            repeat(value.float().to(device, non_blocking=True), f"{axis} a -> (t h w) 1 a", **sizes)
            for axis, value in zip("thw", values, strict=True)
        ]
        return torch.cat(laid_out, dim=-1)

    return Rope(cos=table([axis.cos() for axis in axes]), sin=table([axis.sin() for axis in axes]))


def apply_rope(heads: Float[Tensor, "b s n d"], rope: Rope) -> Float[Tensor, "b s n d"]:
    """Turn each pair of features by its token's angle, in fp32."""
    pairs = rearrange(heads.float(), "b s n (half pair) -> pair b s n half", pair=2)
    even, odd = pairs[0], pairs[1]
    turned = torch.stack(
        (even * rope.cos - odd * rope.sin, even * rope.sin + odd * rope.cos), dim=-1
    )
    return turned.flatten(-2).to(heads.dtype)
