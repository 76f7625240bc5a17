"""Writing videos, as the commands share it."""

import argparse
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from ..files import check_writable
from ..media.background import BackgroundWriter
from ..media.codecs import CONTAINERS, VideoCodec, check_output, quality_of
from ..media.video_write import VideoWriter
from ..shapes import Float, Tensor


def check_video(options: argparse.Namespace) -> None:
    """Refuse a video file that could not be written as asked for."""
    check_writable(options.output, suffixes=tuple(CONTAINERS), overwrite=options.overwrite)
    codec = VideoCodec(options.codec)
    check_output(options.output, codec)
    quality_of(codec, options.quality)


def write_clip(
    clip: Float[Tensor, "p h w 3"], path: Path, *, codec: VideoCodec, rate: Fraction
) -> None:
    """Write a clip that is in memory."""
    _, height, width, _ = clip.shape
    with VideoWriter(
        path, codec=codec, frames_per_second=rate, height=height, width=width
    ) as writer:
        writer.write(clip)


def open_writer(
    options: argparse.Namespace, *, height: int, width: int, rate: Fraction
) -> BackgroundWriter:
    """Make the writer of a command's video; it still has to be entered."""
    return BackgroundWriter(
        VideoWriter(
            options.output,
            codec=VideoCodec(options.codec),
            frames_per_second=rate,
            height=height,
            width=width,
            quality=options.quality,
        )
    )


def write_stream(
    chunks: Iterator[Float[Tensor, "p h w 3"]], options: argparse.Namespace, *, rate: Fraction
) -> None:
    """Write chunks of frames as they come; the first one tells the size."""
    first = next(chunks)
    _, height, width, _ = first.shape
    with open_writer(options, height=height, width=width, rate=rate) as writer:
        writer.write(first)
        for chunk in chunks:
            writer.write(chunk)
