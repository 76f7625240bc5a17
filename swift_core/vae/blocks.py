"""What the levels of a Wan VAE are made of: norm, residual block, attention, change of size.

Parameter names are those of the original checkpoints, so the numbers in a stack are fixed: an
activation holds a number although it has no weights.

Features are kept channels-last in memory (``b t h w c``) under their usual shape ``b c t h w``:
norms then read whole pixels, and convolutions are faster. Any other layout gives the same result.

Source: Wan-Video/Wan2.2@42bf4cf:wan/modules/vae2_2.py. Oracle: tests/oracle/test_vae_modules.py.
"""

import torch
from einops import rearrange, repeat
from torch import nn
from torch.nn import functional as F

from ..shapes import Float, Tensor
from .causal import CausalConv3d, CausalModule, CausalStack, FrameConv2d, Rows, TailCache
from .config import Level

NORM_EPS = 1e-24
"""Keeps a pixel of zeros at zero. Wan clamps the length of the channel vector at 1e-12 instead."""


class RMSNorm(nn.Module):
    """Divide each pixel's channels by their root mean square, computed in fp32, and scale."""

    def __init__(self, dim: int, *, axes: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim, *(1,) * axes))

    def forward(self, features: Float[Tensor, "b c *thw"]) -> Float[Tensor, "b c *thw"]:
        """Normalise in fp32 and return the format that came in."""
        if features.ndim == 4 or torch.is_grad_enabled():
            return self._normalise(features)
        # Frame by frame: of what fp32 takes, one frame is there at a time.
        out = torch.empty_like(features, memory_format=torch.channels_last_3d)
        for frame, normed in zip(features.unbind(2), out.unbind(2), strict=True):
            normed.copy_(self._normalise(frame))
        return out

    def _normalise(self, features: Float[Tensor, "b c *thw"]) -> Float[Tensor, "b c *thw"]:
        # One layout, so that a pixel's sum has one order, whatever picture it is part of.
        pixels = features.movedim(1, -1).contiguous()
        normed = F.rms_norm(pixels, pixels.shape[-1:], eps=NORM_EPS).movedim(-1, 1)
        # In place, so that an fp32 gamma does not widen 16-bit features to a second copy.
        return normed.mul_(self.gamma.view(-1, *(1,) * (features.ndim - 2)))


class Activation(nn.SiLU):
    """SiLU on what a norm has just made: in place, unless gradients need it."""

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:  # noqa: A002 - torch's name
        """Activate."""
        return F.silu(input, inplace=not torch.is_grad_enabled())


class ResidualBlock(CausalModule):
    """Two normed causal convolutions around a shortcut."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.residual = CausalStack(
            (
                RMSNorm(in_dim),
                Activation(),
                CausalConv3d(in_dim, dim, (3, 3, 3)),
                RMSNorm(dim),
                Activation(),
                nn.Identity(),  # dropout, in training by Wan
                CausalConv3d(dim, dim, (3, 3, 3)),
            )
        )
        self.shortcut = nn.Identity() if in_dim == dim else CausalConv3d(in_dim, dim, (1, 1, 1))

    def rows_read(self, rows: Rows) -> Rows:
        """Read what the longer way reads."""
        return self.residual.rows_read(rows)

    def forward(
        self, features: Float[Tensor, "b c t h w"], cache: TailCache
    ) -> Float[Tensor, "b d t h w"]:
        """Transform one chunk."""
        out = self.residual(features, cache)
        return out.add_(self.shortcut(features))


class AttentionBlock(nn.Module):
    """Let the pixels of each frame attend to each other, with one head."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = RMSNorm(dim, axes=2)
        self.to_qkv = nn.Conv2d(dim, 3 * dim, 1)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, features: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        """Attend within each frame."""
        batch, height = len(features), features.shape[3]
        frames = rearrange(features, "b c t h w -> (b t) c h w")
        qkv = self.to_qkv(self.norm(frames))
        # Kernels without a matrix of scores want features side by side, as channels last has them.
        query, key, value = (
            part if part.stride(-1) == 1 else part.contiguous()
            for part in rearrange(qkv, "n (three c) h w -> three n 1 (h w) c", three=3)
        )
        out = F.scaled_dot_product_attention(query, key, value)
        out = self.proj(rearrange(out, "n 1 (h w) c -> n c h w", h=height))
        return features + rearrange(out, "(b t) c h w -> b c t h w", b=batch)


def middle_blocks(dim: int) -> CausalStack:
    """Build the innermost part of the encoder or decoder: the only one that sees whole frames."""
    return CausalStack((ResidualBlock(dim, dim), AttentionBlock(dim), ResidualBlock(dim, dim)))


class DoubleSides(nn.Module):
    """Repeat each pixel twice in height and width."""

    def forward(self, frames: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c i j"]:
        """Double height and width."""
        return repeat(frames, "n c h w -> n (h p) (w q) c", p=2, q=2).movedim(-1, 1)


class Downsample(CausalModule):
    """Halve height and width, and time, where the level says so.

    The first frame is not convolved over time; it is the history of the second chunk.
    """

    def __init__(self, level: Level) -> None:
        super().__init__()
        dim = level.dim
        self.resample = (
            nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), FrameConv2d(dim, level.out_dim, 3, stride=2))
            if level.space == 2
            else None
        )
        self.time_conv = (
            CausalConv3d(dim, dim, (3, 1, 1), time_stride=2) if level.time == 2 else None
        )

    def rows_read(self, rows: Rows) -> Rows:
        """Read three rows for each, every other one twice."""
        if self.resample is None:
            return rows
        return Rows(first=2 * rows.first, end=2 * rows.end + 1)

    def forward(
        self, features: Float[Tensor, "b c t h w"], cache: TailCache
    ) -> Float[Tensor, "b d u i j"]:
        """Shrink one chunk."""
        if self.resample is not None:
            features = _per_frame(self.resample, features)
        if self.time_conv is None:
            return features
        if self.time_conv not in cache:
            cache.begin(self.time_conv, features)
            return features
        return self.time_conv(cache.extend(self.time_conv, features))


class Upsample(CausalModule):
    """Double time, then height and width, where the level says so.

    The first frame is not doubled in time, and the second chunk's history is zeros in its place.
    """

    def __init__(self, level: Level) -> None:
        super().__init__()
        dim = level.dim
        self.resample = (
            nn.Sequential(DoubleSides(), FrameConv2d(dim, level.out_dim, 3, padding=1))
            if level.space == 2
            else None
        )
        self.time_conv = CausalConv3d(dim, 2 * dim, (3, 1, 1)) if level.time == 2 else None

    def rows_read(self, rows: Rows) -> Rows:
        """Read the row that each stands for, and its neighbour where the kernel reaches it."""
        if self.resample is None:
            return rows
        taps = rows.grown(1)
        return Rows(first=taps.first // 2, end=-(-taps.end // 2))

    def forward(
        self, features: Float[Tensor, "b c t h w"], cache: TailCache
    ) -> Float[Tensor, "b d u i j"]:
        """Enlarge one chunk."""
        if self.time_conv is not None:
            if self.time_conv in cache:
                pairs = self.time_conv(cache.extend(self.time_conv, features))
                features = rearrange(pairs, "b (r c) t h w -> b t r h w c", r=2)
                features = features.flatten(1, 2).movedim(-1, 1)
            else:
                history = (0, 0, 0, 0, self.time_conv.history - 1, 0)
                cache.begin(self.time_conv, F.pad(torch.zeros_like(features), history))
        return features if self.resample is None else _per_frame(self.resample, features)


def average_down(features: Float[Tensor, "b c t h w"], level: Level) -> Float[Tensor, "b d u i j"]:
    """Take the shortcut of a shrinking level: average groups of neighbouring values.

    A first chunk of one frame is filled up with zero frames in front.
    """
    features = F.pad(features, (0, 0, 0, 0, -features.shape[2] % level.time, 0))
    groups = rearrange(
        features,
        "b c (t r) (h p) (w q) -> b t h w (c r p q)",
        r=level.time,
        p=level.space,
        q=level.space,
    )
    return rearrange(groups, "b t h w (d g) -> b d t h w g", d=level.dim).mean(-1)


def add_duplicates(
    out: Float[Tensor, "b d u i j"], features: Float[Tensor, "b c t h w"], level: Level
) -> None:
    """Take the shortcut of an enlarging level: add each value to a group of finer neighbours.

    Args:
        out: the longer way's result, added to in place; of a first chunk, which is not doubled in
            time, it has the last frames only.
    """
    copies = level.dim * level.factor // level.in_dim
    missing = features.shape[2] * level.time - out.shape[2]
    for place in range(level.factor):
        rest, right = divmod(place, level.space)
        late, low = divmod(rest, level.space)
        # Frames of ``out`` that stand at this place, and the coarse frames that they belong to.
        first = (late - missing) % level.time
        begin = (first + missing) // level.time
        values = features[:, place // copies :: level.in_dim // level.dim, begin:]
        out[:, :, first :: level.time, low :: level.space, right :: level.space] += values


def _per_frame(
    layer: nn.Module, features: Float[Tensor, "b c t h w"]
) -> Float[Tensor, "b d t i j"]:
    """Apply a layer for pictures to each frame, one at a time: its intermediates are as large."""
    out: Tensor | None = None
    for index, frame in enumerate(features.unbind(2)):
        made: Tensor = layer(frame)
        if out is None:
            out = torch.empty(
                (*made.shape[:2], features.shape[2], *made.shape[2:]),
                device=made.device,
                dtype=made.dtype,
                memory_format=torch.channels_last_3d,
            )
        out[:, :, index] = made
    assert out is not None, "a chunk has frames"
    return out
