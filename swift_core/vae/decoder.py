"""The decoder: one raw latent frame in, a chunk of pixel frames out."""

from torch import nn

from ..shapes import Float, Tensor
from .blocks import ResidualBlock, RMSNorm, Upsample, duplicate_up, middle_blocks
from .causal import CausalConv3d, CausalModule, CausalStack, TailCache
from .config import Level, VAEConfig


class UpLevel(CausalModule):
    """One level of the Wan2.2 form: its layers beside a duplicating shortcut.

    The last level keeps its size and has no shortcut.
    """

    def __init__(self, level: Level) -> None:
        super().__init__()
        self.level = level
        self.upsamples = CausalStack(_layers(level))

    def forward(
        self, features: Float[Tensor, "b c t h w"], cache: TailCache
    ) -> Float[Tensor, "b d u i j"]:
        """Transform and enlarge one chunk."""
        out = self.upsamples(features, cache)
        if self.level.factor == 1:
            return out
        return out.add_(duplicate_up(features, self.level, frames=out.shape[2]))


class Decoder(CausalModule):
    """Enlarge one raw latent frame to a chunk of patchified pixel frames.

    Source: Wan-Video/Wan2.2@42bf4cf:wan/modules/vae2_2.py and vae2_1.py.
    Oracle: tests/oracle/test_vae.py.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        levels = config.decoder_levels
        inner, outer = levels[0].in_dim, levels[-1].out_dim
        self.conv1 = CausalConv3d(config.latent_channels, inner, (3, 3, 3))
        self.middle = middle_blocks(inner)
        self.upsamples = CausalStack(
            [UpLevel(level) for level in levels]
            if config.residual
            else [layer for level in levels for layer in _layers(level)]
        )
        self.head = CausalStack(
            (RMSNorm(outer), nn.SiLU(), CausalConv3d(outer, config.pixel_channels, (3, 3, 3)))
        )

    def forward(
        self, features: Float[Tensor, "b c 1 h w"], cache: TailCache
    ) -> Float[Tensor, "b d p i j"]:
        """Decode one latent frame."""
        features = self.conv1(cache.extend(self.conv1, features))
        features = self.middle(features, cache)
        features = self.upsamples(features, cache)
        return self.head(features, cache)


def _layers(level: Level) -> list[nn.Module]:
    """List a level's layers in Wan's order."""
    widths = [level.in_dim] + [level.dim] * (level.blocks - 1)
    layers: list[nn.Module] = [ResidualBlock(width, level.dim) for width in widths]
    return [*layers, Upsample(level)] if level.factor > 1 else layers
