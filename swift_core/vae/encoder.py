"""The encoder: a chunk of pixel frames in, one frame of raw moments out."""

from fractions import Fraction
from math import prod

from torch import nn

from ..shapes import Float, Tensor
from .bands import WHOLE, Banding, run_in_bands
from .blocks import Activation, Downsample, ResidualBlock, RMSNorm, average_down, middle_blocks
from .causal import CausalConv3d, CausalModule, CausalStack, Rows, TailCache, run_layers
from .config import Level, VAEConfig


class DownLevel(CausalModule):
    """One level of the Wan2.2 form: its layers beside an averaging shortcut."""

    def __init__(self, level: Level) -> None:
        super().__init__()
        self.level = level
        self.downsamples = CausalStack(_layers(level))

    def rows_read(self, rows: Rows) -> Rows:
        """Read what the layers read; the shortcut reads fewer."""
        return self.downsamples.rows_read(rows)

    def forward(
        self, features: Float[Tensor, "b c t h w"], cache: TailCache
    ) -> Float[Tensor, "b d u i j"]:
        """Transform and shrink one chunk."""
        out = self.downsamples(features, cache)
        return out.add_(average_down(features, self.level))


class Encoder(CausalModule):
    """Shrink a chunk of patchified pixel frames to one frame of moments.

    Source: Wan-Video/Wan2.2@42bf4cf:wan/modules/vae2_2.py and vae2_1.py.
    Oracle: tests/oracle/test_vae.py.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        levels = self.levels = config.encoder_levels
        inner = levels[-1].out_dim
        self.conv1 = CausalConv3d(config.pixel_channels, config.encoder_dim, (3, 3, 3))
        layers = [[DownLevel(level)] if config.residual else _layers(level) for level in levels]
        self.downsamples = CausalStack([layer for level in layers for layer in level])
        self._entries = [len(level) for level in layers]
        self.middle = middle_blocks(inner)
        self.head = CausalStack(
            (
                RMSNorm(inner),
                Activation(),
                CausalConv3d(inner, 2 * config.latent_channels, (3, 3, 3)),
            )
        )

    def forward(
        self,
        features: Float[Tensor, "b c p h w"],
        cache: TailCache,
        banding: Banding = WHOLE,
    ) -> Float[Tensor, "b d 1 i j"]:
        """Encode one chunk.

        Args:
            banding: of the levels next to the pixels; the result does not depend on it.
        """
        cut = sum(self._entries[: banding.levels])
        begin = [self.conv1, *self.downsamples[:cut]]
        if banding.is_whole:
            features = run_layers(begin, features, cache)
        else:
            scale = Fraction(1, prod(level.space for level in self.levels[: banding.levels]))
            features = run_in_bands(begin, features, cache, banding=banding, scale=scale)
        rest = [*self.downsamples[cut:], self.middle, self.head]
        return run_layers(rest, features, cache)


def _layers(level: Level) -> list[nn.Module]:
    """List a level's layers in Wan's order."""
    widths = [level.in_dim] + [level.dim] * (level.blocks - 1)
    layers: list[nn.Module] = [ResidualBlock(width, level.dim) for width in widths]
    return [*layers, Downsample(level)] if level.factor > 1 else layers
