"""A clip from whatever holds one: a video, a folder of pictures, an animated picture."""

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import torch

from ..errors import MediaError
from ..files import PICTURE_SUFFIXES
from ..shapes import Float, Tensor
from .pictures import load_frames, load_picture
from .video_read import Clip, read_video

USUAL_RATE = Fraction(16)
"""Frames per second of Wan's clips, for a source that has no rate."""

_ANIMATED_SUFFIXES = (".gif", ".webp", ".png", ".apng")
_STILL_SUFFIXES = (*PICTURE_SUFFIXES, ".webp", ".bmp", ".tif", ".tiff")


def read_clip(path: Path, *, most_frames: int | None = None) -> Clip:
    """Read a clip; a folder's pictures come in the order of their names, numbers by value.

    Folders, and animations that tell no times, run at ``USUAL_RATE``.

    Args:
        most_frames: read no more than so many.

    Raises:
        MediaError: if there is nothing to read, or the pictures of a folder differ in size.
    """
    if path.is_dir():
        return _read_folder(path, most_frames=most_frames)
    if reads_as_video(path):
        return read_video(path, most_frames=most_frames)
    pictures, milliseconds = load_frames(path, most_frames=most_frames)
    # Times are whole milliseconds, so a rate is only near what was meant.
    rate = Fraction(1000 / milliseconds).limit_denominator(100) if milliseconds else USUAL_RATE
    return Clip(frames=torch.stack(pictures), frames_per_second=rate)


def reads_as_video(path: Path) -> bool:
    """Tell whether a file is taken for a video, not for an animated picture."""
    return path.suffix.lower() not in _ANIMATED_SUFFIXES


def folder_pictures(folder: Path, *, most: int | None = None) -> list[Path]:
    """List a folder's pictures in the order of a clip.

    Raises:
        MediaError: if there are none.
    """
    paths = sorted(
        (path for path in folder.iterdir() if path.suffix.lower() in _STILL_SUFFIXES),
        key=_natural_order,
    )[:most]
    if not paths:
        raise MediaError(f"{folder} holds no pictures; name a video or a folder of PNG files.")
    return paths


def load_alike(paths: Sequence[Path]) -> Iterator[Float[Tensor, "h w 3"]]:
    """Read pictures, one at a time, that must be of one size.

    Raises:
        MediaError: naming the first that is not.
    """
    first: torch.Size | None = None
    for path in paths:
        picture = load_picture(path)
        first = first or picture.shape
        if picture.shape != first:
            raise MediaError(
                f"{path} is {picture.shape[1]}x{picture.shape[0]}, but {paths[0].name} is "
                f"{first[1]}x{first[0]}; give all pictures one size."
            )
        yield picture


def _read_folder(folder: Path, *, most_frames: int | None) -> Clip:
    pictures = list(load_alike(folder_pictures(folder, most=most_frames)))
    return Clip(frames=torch.stack(pictures), frames_per_second=USUAL_RATE)


def _natural_order(path: Path) -> list[tuple[int, str]]:
    """Order names as people do: ``frame2`` before ``frame10``."""
    return [
        (int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", path.name)
    ]
