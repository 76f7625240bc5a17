"""The decoder: one raw latent frame in, a chunk of pixel frames out."""

from fractions import Fraction
from math import prod

from torch import nn

from ..shapes import Float, Tensor
from .bands import WHOLE, Banding, run_in_bands
from .blocks import Activation, ResidualBlock, RMSNorm, Upsample, add_duplicates, middle_blocks
from .causal import CausalConv3d, CausalModule, CausalStack, Rows, TailCache, run_layers
from .config import Level, VAEConfig


class UpLevel(CausalModule):
    """One level of the Wan2.2 form: its layers beside a duplicating shortcut.

    The last level keeps its size and has no shortcut.
    """

    def __init__(self, level: Level) -> None:
        super().__init__()
        self.level = level
        self.upsamples = CausalStack(_layers(level))

    def rows_read(self, rows: Rows) -> Rows:
        """Read what the layers read; the shortcut reads fewer."""
        return self.upsamples.rows_read(rows)

    def forward(
        self, features: Float[Tensor, "b c t h w"], cache: TailCache
    ) -> Float[Tensor, "b d u i j"]:
        """Transform and enlarge one chunk."""
        out = self.upsamples(features, cache)
        if self.level.factor == 1:
            return out
        add_duplicates(out, features, self.level)
        return out


class Decoder(CausalModule):
    """Enlarge one raw latent frame to a chunk of patchified pixel frames.

    Source: Wan-Video/Wan2.2@42bf4cf:wan/modules/vae2_2.py and vae2_1.py.
    Oracle: tests/oracle/test_vae.py.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        levels = self.levels = config.decoder_levels
        inner, outer = levels[0].in_dim, levels[-1].out_dim
        self.conv1 = CausalConv3d(config.latent_channels, inner, (3, 3, 3))
        self.middle = middle_blocks(inner)
        layers = [[UpLevel(level)] if config.residual else _layers(level) for level in levels]
        self.upsamples = CausalStack([layer for level in layers for layer in level])
        self._entries = [len(level) for level in layers]
        self.head = CausalStack(
            (RMSNorm(outer), Activation(), CausalConv3d(outer, config.pixel_channels, (3, 3, 3)))
        )

    def forward(
        self,
        features: Float[Tensor, "b c 1 h w"],
        cache: TailCache,
        banding: Banding = WHOLE,
    ) -> Float[Tensor, "b d p i j"]:
        """Decode one latent frame.

        Args:
            banding: of the levels next to the pixels; the result does not depend on it.
        """
        first = max(0, len(self.levels) - banding.levels)
        cut = sum(self._entries[:first])
        begin = [self.conv1, self.middle, *self.upsamples[:cut]]
        features = run_layers(begin, features, cache)
        rest = [*self.upsamples[cut:], *self.head]
        if banding.is_whole:
            return run_layers(rest, features, cache)
        scale = Fraction(prod(level.space for level in self.levels[first:]))
        return run_in_bands(rest, features, cache, banding=banding, scale=scale)


def _layers(level: Level) -> list[nn.Module]:
    """List a level's layers in Wan's order."""
    widths = [level.in_dim] + [level.dim] * (level.blocks - 1)
    layers: list[nn.Module] = [ResidualBlock(width, level.dim) for width in widths]
    return [*layers, Upsample(level)] if level.factor > 1 else layers
