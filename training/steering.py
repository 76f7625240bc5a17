"""Where a moving camera finds each place of a frame in the picture, and a DiT that looks there.

Attention can move a picture: a head whose rotary phases point from a place of a later frame to
another place of frame 0 fetches what is there. So Stage I is built, not only trained:

- **Cues.** In the first DiT block three heads weigh frame 0 against their own frame with slopes
  that run against each other. The share that frame 0 gets is then a logistic function of the
  token's place across, down or in time, counted from the frame's middle and from frame 0, at any
  size and length. The prompt's words are summed up beside them.
- **Phases.** Feed-forwards turn cues and words into cosine and sine of the way to the source: this
  is learned, in lessons that know the true way. At first all ways are zero: a still picture.
- **Copies.** In all later DiT blocks every head fetches frame 0 around the source, at an offset of
  its own, and the way out takes the sum off the answer. One fetch would be a blur of blocks;
  together their weights, fitted by least squares, move content by fractions of a block.
"""

import math
from dataclasses import dataclass

import torch

from swift_core.model.config import DiTConfig
from swift_core.shapes import Float, Tensor
from swift_core.vae.config import Compression

from .moves import Move, follow
from .rotary import Rows

FREQUENCIES = (0, 1)
"""Which of an axis's rotary frequencies point at the source: the two fastest."""

SHARPNESS = (10.0, 12.0)
"""What they add to a score at the source."""


def offsets(count: int) -> tuple[tuple[float, float], ...]:
    """Give where copying heads look, from the source, in latent cells: rings, inner ones first."""
    rings = ((0.25, 4, 0.5), (0.6, 8, 0.0), (1.0, 12, 0.5))
    found = [
        (radius * math.cos(math.tau * (k + turn) / n), radius * math.sin(math.tau * (k + turn) / n))
        for radius, n, turn in rings
        for k in range(n)
    ]
    assert count <= len(found), "there are not that many places to look"
    return tuple(found[:count])


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A latent frame's cells, and what one covers.

    Attributes:
        height: rows.
        width: columns.
        compression: pixels per cell.
    """

    height: int
    width: int
    compression: Compression


def displacement(move: Move, frames: Float[Tensor, " t"], grid: Grid) -> Float[Tensor, "t h w 2"]:
    """Find the way from each cell to where frame 0 shows it, in cells, x and y.

    Places outside of frame 0 are taken for the nearest inside.

    Args:
        frames: latent frames; each stands for the middle of its pixel frames.
    """
    time, space = grid.compression.time, grid.compression.space
    last = int(frames.max()) * time + 1
    path = follow(move, pixel_frames=last, width=grid.width * space)
    rows = torch.arange(grid.height) - (grid.height - 1) / 2
    columns = torch.arange(grid.width) - (grid.width - 1) / 2
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    cells = torch.stack((x, y), dim=-1)
    sources = path.to_world(cells.reshape(-1, 2) * space) / space
    edge = torch.tensor([(grid.width - 1) / 2, (grid.height - 1) / 2])
    found: list[Tensor] = []
    for frame in frames.long().tolist():
        shown = slice(max(0, (frame - 1) * time + 1), frame * time + 1)
        source = sources[shown].mean(0).clamp(-edge, edge)
        found.append(source.view(grid.height, grid.width, 2) - cells)
    return torch.stack(found)


def axis_frequencies(config: DiTConfig) -> tuple[float, ...]:
    """Give the rotary frequencies that point at the source, in radians per cell."""
    rows = Rows(config, 0)
    return tuple(rows.frequency("w", index) for index in FREQUENCIES)


def phases(way: Float[Tensor, "*b 2"], config: DiTConfig) -> Float[Tensor, "*b phases"]:
    """Give cosine and sine of a way per axis and frequency: what copying heads are told."""
    angles = way.unsqueeze(-1) * torch.tensor(axis_frequencies(config))
    return torch.stack((angles.cos(), angles.sin()), dim=-1).flatten(-3)


def looks(
    way: Float[Tensor, "n h w 2"], offset: tuple[float, float], config: DiTConfig
) -> Float[Tensor, "n h w i j"]:
    """Compute where a copying head looks in frame 0: the softmax that its DiT block computes."""
    height, width = way.shape[1:3]
    shares: list[Tensor] = []
    for axis, length in ((0, width), (1, height)):
        own = torch.arange(length).view((1, 1, -1) if axis == 0 else (1, -1, 1))
        source = own + way[..., axis] + offset[axis]
        difference = torch.arange(length) - source.unsqueeze(-1)
        score = torch.zeros_like(difference)
        for frequency, sharpness in zip(axis_frequencies(config), SHARPNESS, strict=True):
            score = score + sharpness * torch.cos(frequency * difference)
        shares.append(score.softmax(-1))
    return shares[1].unsqueeze(-1) * shares[0].unsqueeze(-2)
