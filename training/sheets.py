"""Contact sheets: what was judged, to be looked at."""

from pathlib import Path

import torch

from swift_core.media.pictures import save_picture
from swift_core.shapes import Float, Tensor

GAP = 4


class Sheet:
    """Collect frames in rows, and write them as one picture."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []

    def add(self, *clips: Float[Tensor, "p h w 3"], frames: tuple[int, ...] = (-1,)) -> None:
        """Add a row: the named frames of the first clip, then of the next."""
        pictures = [clip[frame].float().cpu() for clip in clips for frame in frames]
        self._rows.append(torch.cat([_framed(picture) for picture in pictures], dim=1))

    def save(self, path: Path) -> None:
        """Write the sheet; rows are filled up with white."""
        width = max(row.shape[1] for row in self._rows)
        filled = [
            torch.cat((row, row.new_ones((row.shape[0], width - row.shape[1], 3))), dim=1)
            for row in self._rows
        ]
        save_picture(torch.cat(filled), path)


def _framed(picture: Float[Tensor, "h w 3"]) -> Float[Tensor, "i j 3"]:
    height, width, _ = picture.shape
    framed = picture.new_ones((height + GAP, width + GAP, 3))
    framed[:height, :width] = picture
    return framed
