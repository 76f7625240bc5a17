"""Attention: the one function everything goes through, and Wan's two layers around it.

Axes: ``b`` batch, ``s`` query tokens, ``k`` key tokens, ``n`` heads, ``d`` features.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from ..shapes import Bool, Float, Tensor
from .config import DiTConfig
from .rope import Rope, apply_rope


class KeyValue(NamedTuple):
    """What a query attends to: ready keys (normed, rotated) and values, ``"b k n d"`` each."""

    key: Tensor
    value: Tensor


FastAttend = Callable[[Tensor, KeyValue], Tensor]
"""Stands in for ``attend`` where there is no mask."""


def attend(
    query: Float[Tensor, "b s n d"],
    memory: KeyValue,
    *,
    mask: Bool[Tensor, "s k"] | None = None,
    fast: FastAttend | None = None,
) -> Float[Tensor, "b s n d"]:
    """Attend from every query token to the memory.

    Args:
        mask: True where the query may look; None lets all look at all.
        fast: what computes it if there is no mask; None is PyTorch's own attention.
    """
    if fast is not None and mask is None:
        return fast(query, memory)
    query, key, value = (
        rearrange(part, "b s n d -> b n s d") for part in (query, memory.key, memory.value)
    )
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return rearrange(out, "b n s d -> b s n d")


class RMSNorm(nn.Module):
    """Divide tokens by their root mean square, computed in fp32, and scale."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, tokens: Float[Tensor, "b s d"]) -> Float[Tensor, "b s d"]:
        """Normalise in fp32 and return the format that came in."""
        wide = tokens.float()
        inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * inverse * self.weight).to(tokens.dtype)


class Attention(nn.Module):
    """Hold the projections shared by self- and cross-attention, under Wan's names."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads = config.heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = RMSNorm(dim, config.eps)
        self.norm_k = RMSNorm(dim, config.eps)

    def split(self, tokens: Float[Tensor, "b s d"]) -> Float[Tensor, "b s n e"]:
        """Give each head its share of the features."""
        return rearrange(tokens, "b s (n e) -> b s n e", n=self.heads)


class SelfAttention(Attention):
    """Let the tokens of a segment attend to each other and to a remembered context."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config)
        self.fast: FastAttend | None = None

    def forward(
        self,
        tokens: Float[Tensor, "b s d"],
        rope: Rope,
        *,
        context: KeyValue | None = None,
        mask: Bool[Tensor, "s s"] | None = None,
    ) -> tuple[Float[Tensor, "b s d"], KeyValue]:
        """Attend, and give back the tokens' own keys and values as well.

        Args:
            context: keys and values of other tokens, attended to before the tokens' own.
            mask: among the tokens' own, True where the query (row) may look.
        """
        query = apply_rope(self.split(self.norm_q(self.q(tokens))), rope)
        key = apply_rope(self.split(self.norm_k(self.k(tokens))), rope)
        own = memory = KeyValue(key, self.split(self.v(tokens)))
        if context is not None:
            memory = KeyValue(
                torch.cat((context.key, own.key), dim=1),
                torch.cat((context.value, own.value), dim=1),
            )
        out = attend(query, memory, mask=mask, fast=self.fast)
        return self.o(out.flatten(2)), own


class CrossAttention(Attention):
    """Let tokens attend to the prompt."""

    def read(self, text: Float[Tensor, "b k d"]) -> KeyValue:
        """Compute the prompt's keys and values; they are the same in every step and segment."""
        return KeyValue(self.split(self.norm_k(self.k(text))), self.split(self.v(text)))

    def forward(self, tokens: Float[Tensor, "b s d"], prompt: KeyValue) -> Float[Tensor, "b s d"]:
        """Attend to the prompt's keys and values."""
        query = self.split(self.norm_q(self.q(tokens)))
        return self.o(attend(query, prompt).flatten(2))
