"""What Stage I's DiT is fitted to before its first step, and where things are in its tokens."""

from dataclasses import dataclass

import torch

from swift_core.geometry import PixelShape
from swift_core.model.config import DiTConfig
from swift_core.shapes import Float, Tensor
from swift_core.vae.autoencoder import WanVAE

from .data import STEADY, ClipMaker
from .dits import Layout
from .prompts import WORD_GROUPS
from .steering import FREQUENCIES, Grid, displacement, looks, offsets
from .vae import to_model

RIDGE = 1e-3
"""Of the mean square of what is fetched: maps that nearly cancel each other would be fragile."""


@dataclass(frozen=True, kw_only=True)
class CopyFit:
    """What a DiT must know of its VAE to copy.

    Attributes:
        grey: the latent of a grey frame after the picture.
        maps: for each copying head, from what it fetches to its share of the answer.
    """

    grey: Float[Tensor, " c"]
    maps: Float[Tensor, "heads c c"]


@dataclass(frozen=True, kw_only=True)
class Features:
    """Where things are in a token of Stage I.

    Attributes:
        channels: of a latent.
    """

    channels: int

    @property
    def picture(self) -> int:
        """Give the first feature of the picture's latent."""
        return self.channels + 3

    @property
    def mask(self) -> int:
        """Give the feature that is positive in frame 0 and negative elsewhere."""
        return self.picture + self.channels

    @property
    def cues(self) -> int:
        """Give the first of three: across, down, time."""
        return self.mask + 1

    @property
    def words(self) -> int:
        """Give the first that counts words, by group."""
        return self.cues + 3

    @property
    def phases(self) -> int:
        """Give the first phase."""
        return self.words + len(WORD_GROUPS)

    @property
    def phase_count(self) -> int:
        """Count the phases: cosine and sine per axis and frequency."""
        return 4 * len(FREQUENCIES)

    @property
    def layout(self) -> Layout:
        """Give the layout that this is a part of."""
        end = self.phases + self.phase_count
        return Layout(answer=self.channels, named=end - self.picture)


def copying_heads(config: DiTConfig) -> int:
    """Count the heads that copy: all but the first DiT block's."""
    return config.heads * (config.layers - 1)


@torch.no_grad()
def fit_copies(
    config: DiTConfig, vae: WanVAE, clips: ClipMaker, shape: PixelShape, *, count: int
) -> CopyFit:
    """Find by least squares how fetches of frame 0 make up the clean latents of moving clips."""
    size = copying_heads(config) * config.out_channels
    square = torch.zeros((size, size), dtype=torch.float64)
    product = torch.zeros((size, config.out_channels), dtype=torch.float64)
    for index in range(count):
        made = clips.make(2 * 10**8 + index, count=1, shape=shape, style=STEADY)
        clean = vae.encode(to_model(made.pixels)).float()[0].cpu()
        frames, height, width = clean.shape[1:]
        grid = Grid(height=height, width=width, compression=vae.config.compression)
        way = displacement(made.moves[0], torch.arange(1, frames), grid)
        fetched = [
            torch.einsum("thwij,cij->thwc", looks(way, offset, config), clean[:, 0])
            for offset in offsets(copying_heads(config))
        ]
        columns = torch.cat(fetched, dim=-1).flatten(0, 2).double()
        square += columns.T @ columns
        product += columns.T @ clean[:, 1:].permute(1, 2, 3, 0).flatten(0, 2).double()
    ridge = RIDGE * square.diagonal().mean() * torch.eye(size, dtype=torch.float64)
    maps = torch.linalg.solve(square + ridge, product).float()
    time = vae.config.compression.time
    shown = torch.zeros((1, 3, 2 * time + 1, shape.height, shape.width))
    grey = vae.encode(shown.to(next(vae.parameters()).device)).float().cpu()
    return CopyFit(
        grey=grey[0, :, -1].mean((1, 2)),
        maps=maps.view(-1, config.out_channels, config.out_channels).mT,
    )
