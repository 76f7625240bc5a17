"""Clips that are read when they are needed, as often as they are: from memory or from a file.

A stream is ``"p h w 3"`` in [0, 1], a few frames at a time; together they are the clip.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from ..geometry import PixelShape
from ..shapes import Float, Tensor
from .clips import folder_pictures, load_alike, read_clip, reads_as_video
from .pictures import load_picture
from .video_read import iter_video


@runtime_checkable
class ClipSource(Protocol):
    """Where a clip comes from."""

    @property
    def shape(self) -> PixelShape:
        """Tell how long and how large it is."""
        ...

    def frames(self) -> Iterator[Float[Tensor, "p h w 3"]]:
        """Read it from its beginning."""
        ...


@dataclass(frozen=True)
class ClipInMemory:
    """A clip that is there."""

    clip: Float[Tensor, "p h w 3"]

    @property
    def shape(self) -> PixelShape:
        """Tell how long and how large it is."""
        frames, height, width = self.clip.shape[:3]
        return PixelShape(pixel_frames=frames, height=height, width=width)

    def frames(self) -> Iterator[Float[Tensor, "p h w 3"]]:
        """Give it."""
        yield self.clip


@dataclass(frozen=True, kw_only=True)
class VideoSource:
    """A video file: decoded again each time, never held as a whole."""

    path: Path
    shape: PixelShape

    def frames(self) -> Iterator[Float[Tensor, "p h w 3"]]:
        """Decode it, as many frames as were found in the beginning."""
        left = self.shape.pixel_frames
        for frames in iter_video(self.path):
            yield frames[:left]
            left -= len(frames)
            if left <= 0:
                return


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """A folder's pictures, one at a time."""

    paths: tuple[Path, ...]
    shape: PixelShape

    def frames(self) -> Iterator[Float[Tensor, "p h w 3"]]:
        """Read them."""
        for path in self.paths:
            yield load_picture(path)[None]


def open_clip(path: Path, *, most_frames: int) -> ClipSource:
    """Find out how long and how large a clip is; all of it that will be used is read once.

    So a damaged file is found here, and not in the middle of a run. Animated pictures alone are
    kept in memory.

    Args:
        most_frames: look at no more than so many.

    Raises:
        MediaError: if there is nothing to read, it is damaged, or its frames differ in size.
    """
    if path.is_dir():
        paths = tuple(folder_pictures(path, most=most_frames))
        return FolderSource(paths=paths, shape=_measure(p[None] for p in load_alike(paths)))
    if reads_as_video(path):
        return VideoSource(path=path, shape=_measure(iter_video(path), most_frames))
    return ClipInMemory(read_clip(path, most_frames=most_frames).frames)


def chunks_of(source: ClipSource, *, time: int) -> Iterator[Float[Tensor, "p h w 3"]]:
    """Cut a clip of ``time * n + 1`` frames as a causal VAE takes it: 1, then ``time`` each."""
    waiting: list[Tensor] = []
    wanted = 1
    for frames in source.frames():
        for picture in frames:
            waiting.append(picture)
            if len(waiting) == wanted:
                yield torch.stack(waiting)
                waiting, wanted = [], time
    if waiting:
        yield torch.stack(waiting)


def as_source(clip: "ClipSource | Float[Tensor, 'p h w 3']") -> ClipSource:
    """Take a clip in memory for what it is."""
    return ClipInMemory(clip) if isinstance(clip, Tensor) else clip


def _measure(frames: Iterator[Float[Tensor, "p h w 3"]], most: int | None = None) -> PixelShape:
    """Read a stream to its end, or as far as it matters, and tell its size."""
    count, size = 0, (0, 0)
    for some in frames:
        count, size = count + len(some), (some.shape[1], some.shape[2])
        if most is not None and count >= most:
            count = most
            break
    return PixelShape(pixel_frames=count, height=size[0], width=size[1])
