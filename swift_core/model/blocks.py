"""The repeated layer of the DiT, and its way out.

Axes: tokens are ``"b t s d"``, ``s`` tokens in each of ``t`` latent frames.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from ..shapes import Bool, Float, Tensor
from .attention import CrossAttention, KeyValue, SelfAttention
from .config import DiTConfig
from .modulation import add_gated, modulate
from .rope import Rope


def _drawn(*shape: int) -> nn.Parameter:
    """Draw a beginning for training, by the width."""
    values = torch.empty(shape)
    if not values.is_meta:  # where there is nothing to draw, trying loads half of PyTorch
        values.normal_(std=shape[-1] ** -0.5)
    return nn.Parameter(values)


class DiTBlock(nn.Module):
    """One layer: self-attention, prompt, feed-forward; the first and last modulated."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.self_attn = SelfAttention(config)
        self.norm3 = nn.LayerNorm(config.dim, eps=config.eps)
        self.cross_attn = CrossAttention(config)
        self.ffn = nn.Sequential(
            nn.Linear(config.dim, config.ffn_dim),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.ffn_dim, config.dim),
        )
        self.modulation = _drawn(1, 6, config.dim)

    def forward(
        self,
        tokens: Float[Tensor, "b t s d"],
        time_modulation: Float[Tensor, "b t 6 d"],
        *,
        rope: Rope,
        prompt: KeyValue,
        context: KeyValue | None = None,
        mask: Bool[Tensor, "q k"] | None = None,
    ) -> tuple[Float[Tensor, "b t s d"], KeyValue]:
        """Transform the tokens, and give back their self-attention keys and values.

        Args:
            time_modulation: the time projection, before this layer's own offsets.
            rope: positions of the flattened tokens.
            prompt: this layer's keys and values of the prompt.
            context: this layer's keys and values of frames that are not among the tokens.
            mask: over flattened tokens, True where the query (row) may look.
        """
        frames = tokens.shape[1]
        modulation = (self.modulation.unsqueeze(1) + time_modulation).unsqueeze(-2)
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = modulation.unbind(2)

        update = modulate(tokens, shift=shift, scale=scale, eps=self.eps).flatten(1, 2)
        update, own = self.self_attn(update, rope, context=context, mask=mask)
        update = rearrange(update, "b (t s) d -> b t s d", t=frames)
        tokens = add_gated(tokens, update, gate=gate)

        update = F.layer_norm(
            tokens.float(), tokens.shape[-1:], self.norm3.weight, self.norm3.bias, self.eps
        )
        update = self.cross_attn(update.to(tokens.dtype).flatten(1, 2), prompt)
        tokens = tokens + rearrange(update, "b (t s) d -> b t s d", t=frames)

        update = self.ffn(modulate(tokens, shift=ffn_shift, scale=ffn_scale, eps=self.eps))
        return add_gated(tokens, update, gate=ffn_gate), own


@runtime_checkable
class BlockSource(Protocol):
    """Who hands out the DiT blocks where not all of them are on the device at once."""

    def walk(self) -> Iterator[DiTBlock]:
        """Give each block in turn, ready to work until the next one is asked for."""
        ...


class Head(nn.Module):
    """The way out: modulated norm and a projection to patches."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.eps = config.eps
        features = config.out_channels * config.patch.height * config.patch.width
        self.head = nn.Linear(config.dim, features)
        self.modulation = _drawn(1, 2, config.dim)

    def forward(
        self, tokens: Float[Tensor, "b t s d"], time: Float[Tensor, "b t d"]
    ) -> Float[Tensor, "b t s features"]:
        """Project tokens to velocity patches, in fp32."""
        modulation = (self.modulation.unsqueeze(1) + time.unsqueeze(2)).unsqueeze(-2)
        shift, scale = modulation.unbind(2)
        return self.head(modulate(tokens.float(), shift=shift, scale=scale, eps=self.eps))
