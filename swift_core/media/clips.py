"""A clip from whatever holds one: a video, a folder of pictures, an animated picture."""

import re
from fractions import Fraction
from pathlib import Path

import torch

from ..errors import MediaError
from ..files import PICTURE_SUFFIXES
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
    if path.suffix.lower() not in _ANIMATED_SUFFIXES:
        return read_video(path, most_frames=most_frames)
    pictures, milliseconds = load_frames(path, most_frames=most_frames)
    # Times are whole milliseconds, so a rate is only near what was meant.
    rate = Fraction(1000 / milliseconds).limit_denominator(100) if milliseconds else USUAL_RATE
    return Clip(frames=torch.stack(pictures), frames_per_second=rate)


def _read_folder(folder: Path, *, most_frames: int | None) -> Clip:
    paths = sorted(
        (path for path in folder.iterdir() if path.suffix.lower() in _STILL_SUFFIXES),
        key=_natural_order,
    )[:most_frames]
    if not paths:
        raise MediaError(f"{folder} holds no pictures; name a video or a folder of PNG files.")
    pictures = [load_picture(path) for path in paths]
    for path, picture in zip(paths, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            raise MediaError(
                f"{path} is {picture.shape[1]}x{picture.shape[0]}, but {paths[0].name} is "
                f"{pictures[0].shape[1]}x{pictures[0].shape[0]}; give all pictures one size."
            )
    return Clip(frames=torch.stack(pictures), frames_per_second=USUAL_RATE)


def _natural_order(path: Path) -> list[tuple[int, str]]:
    """Order names as people do: ``frame2`` before ``frame10``."""
    return [
        (int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", path.name)
    ]
