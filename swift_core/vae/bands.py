"""The local part of a VAE in horizontal bands: less memory at a time, the same result.

Attention stands only in the middle block and norms see one pixel, so everything else reads no
further than its kernels: a band of rows needs a few rows more of what comes before, and nothing
else. How many is asked of the layers. Rows near an inner edge of a band come out wrong, because a
convolution pads with zeros there as if it were the picture's border; nobody uses them, and they
are cut away. At the picture's own borders a band ends where the picture does.

Each band has a causal state of its own, for the whole clip: bands do not change between chunks. It
may wait in host memory (``parking``), that of a single band of whole frames too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import nn

from ..errors import GeometryError
from ..shapes import Float, Tensor
from .causal import Rows, TailCache, rows_read, run_layers


@dataclass(frozen=True, kw_only=True)
class Banding:
    """How much of a VAE runs in bands.

    Attributes:
        levels: levels next to the pixels that run in bands; 0 runs whole frames everywhere.
        bands: into how many parts the height is cut; more than there are rows are as many as rows.
        parks: whether the causal state of these levels waits in host memory, but for what is worked
            with; then one band is of use too.
    """

    levels: int
    bands: int
    parks: bool = False

    def __post_init__(self) -> None:
        if self.levels < 0 or self.bands < 1:
            raise GeometryError(
                f"{self.levels} levels in {self.bands} bands cannot be; levels are 0 or more, "
                "bands 1 or more."
            )

    @property
    def is_whole(self) -> bool:
        """Whether nothing is cut and nothing parked."""
        return self.levels == 0 or (self.bands == 1 and not self.parks)


WHOLE = Banding(levels=0, bands=1)


def run_in_bands(
    layers: Sequence[nn.Module],
    features: Float[Tensor, "b c t h w"],
    cache: TailCache,
    *,
    banding: Banding,
    scale: Fraction,
) -> Float[Tensor, "b d u i j"]:
    """Run local layers band by band; equal to ``run_layers`` on whole frames.

    Args:
        cache: gets a state for each band.
        scale: rows of the output for each row of the input.
    """
    height, bands = features.shape[3], banding.bands
    whole = scale * height
    assert whole.denominator == 1, "sizes have been checked"
    if bands == 1:
        return run_layers(layers, features, cache.part(0, parks=banding.parks))
    out: Tensor | None = None
    for band in range(bands):
        wanted = Rows(
            first=whole.numerator * band // bands, end=whole.numerator * (band + 1) // bands
        )
        if wanted.first == wanted.end:
            continue
        read = rows_read(layers, wanted).aligned(scale.denominator).within(height)
        part = features[:, :, :, read.first : read.end]
        part = part.contiguous(memory_format=torch.channels_last_3d)
        made = run_layers(layers, part, cache.part(band, parks=banding.parks))
        first = wanted.first - int(scale * read.first)
        made = made[:, :, :, first : first + wanted.end - wanted.first]
        if out is None:
            shape = (*made.shape[:3], whole.numerator, made.shape[4])
            out = torch.empty(
                shape,
                device=made.device,
                dtype=made.dtype,
                memory_format=torch.channels_last_3d,
            )
        out[:, :, :, wanted.first : wanted.end] = made
    assert out is not None, "there is at least one row"
    return out
