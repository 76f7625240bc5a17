"""Video files read as a stream, in the colours their makers meant.

Axes: ``p`` pixel frames, ``h w`` height and width in pixels, 3 colours (sRGB in [0, 1]).

A stream's own matrix and range are honoured; untagged ones are taken as players take them. Depths
above 8 bits are kept. Rotation is applied. Wide-gamut and HDR colours are not tone-mapped: their
values come as they are stored. Frames are given in order whatever their times (a variable rate is
reported as its average); pixels that are not square stay so.
"""

import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ..errors import MediaError
from ..files import check_readable
from ..shapes import Float, Tensor
from .colour import matrix_of, planes_to_rgb, scale_of
from .containers import stated_nbytes
from .planes import plane_values

CHUNK = 16
"""Frames that are decoded at a time."""

# SWS_BICUBIC, SWS_FULL_CHR_H_INT, SWS_FULL_CHR_H_INP, SWS_ACCURATE_RND: FFmpeg's own numbers,
# because PyAV 14 has no names for the last three.
_SCALER = 0x4 | 0x2000 | 0x4000 | 0x40000
_RANGE_FULL = 2
_HDR_TRANSFERS = (16, 18)  # PQ and HLG in ITU-T H.273
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a video file holds; the size is that of the upright frame."""

    pixel_frames: int
    height: int
    width: int
    frames_per_second: Fraction
    codec: str
    bits: int


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A clip in memory."""

    frames: Float[Tensor, "p h w 3"]
    frames_per_second: Fraction


def probe_video(path: Path) -> VideoInfo:
    """Describe a video file; only its first frame is decoded.

    Frames are counted only if the container does not tell their number.

    Raises:
        MediaError: if there is no video in the file, or no whole one.
    """
    with _opened(path) as (container, stream):
        rate = _rate(stream, path)
        first = next(_decoded(container, stream, path), None)
        if first is None:
            raise MediaError(f"{path} holds no frames; export the video again.")
        height, width = first.height, first.width
        if _quarter_turns(first) % 2:
            height, width = width, height
        codec, bits, count = stream.codec_context.name, _bits(first), stream.frames
    return VideoInfo(
        pixel_frames=count or _count_frames(path),
        height=height,
        width=width,
        frames_per_second=rate,
        codec=codec,
        bits=bits,
    )


def iter_video(path: Path, *, chunk: int = CHUNK) -> Iterator[Float[Tensor, "p h w 3"]]:
    """Read a video a few frames at a time; the last chunk may be short.

    Raises:
        MediaError: if there is no video in the file, or no whole one.
    """
    with _opened(path) as (container, stream):
        pictures: list[Tensor] = []
        shape: torch.Size | None = None
        for frame in _decoded(container, stream, path):
            picture = to_picture(frame)
            shape = shape or picture.shape
            if picture.shape != shape:
                raise MediaError(
                    f"{path} changes its size from {shape[1]}x{shape[0]} to "
                    f"{picture.shape[1]}x{picture.shape[0]}; export it with one size."
                )
            pictures.append(picture)
            if len(pictures) == chunk:
                yield torch.stack(pictures)
                pictures.clear()
        if pictures:
            yield torch.stack(pictures)
        elif shape is None:
            raise MediaError(f"{path} holds no frames; export the video again.")


def read_video(path: Path, *, most_frames: int | None = None) -> Clip:
    """Read a video into memory, or its first frames.

    Args:
        most_frames: stop after so many; what follows is not decoded.

    Raises:
        MediaError: if there is no video in the file, or no whole one.
    """
    with _opened(path) as (_, stream):
        rate, stated = _rate(stream, path), stream.frames
    room = min(count for count in (stated or CHUNK, most_frames) if count is not None)
    clip: Tensor | None = None
    filled = 0
    for frames in iter_video(path):
        frames = frames[: None if most_frames is None else most_frames - filled]
        if clip is None:
            clip = frames.new_empty(room, *frames.shape[1:])
        if filled + len(frames) > len(clip):  # the container did not tell, or told too few
            grown = clip.new_empty(2 * (filled + len(frames)), *clip.shape[1:])
            grown[:filled] = clip[:filled]
            clip = grown
        clip[filled : filled + len(frames)] = frames
        filled += len(frames)
        if filled == most_frames:
            break
    assert clip is not None, "a video without frames has been refused"
    return Clip(frames=clip[:filled], frames_per_second=rate)


def to_picture(frame: VideoFrame) -> Float[Tensor, "h w 3"]:
    """Convert a decoded frame, of whatever format, to an upright picture."""
    if _is_rgb(frame):
        deep = _bits(frame) > 8
        plain = frame.reformat(format="rgb48le" if deep else "rgb24")
        picture = torch.from_numpy(plain.to_ndarray().astype(np.float32)) / (65535 if deep else 255)
    else:
        picture = _yuv_to_picture(frame)
    return picture.rot90(_quarter_turns(frame)).contiguous()


def _yuv_to_picture(frame: VideoFrame) -> Float[Tensor, "h w 3"]:
    name, bits = frame.format.name, _bits(frame)
    named_full = name.startswith("yuvj")  # JPEG's kind of YUV: 8 bits, full range, chroma centred
    if not named_full:
        # Unpack to planes of 16 bits, and leave the chroma as coarse as it is.
        frame = frame.reformat(format=_plain_format(frame), interpolation=_SCALER)
    stored_bits = 8 if named_full else 16
    luma, *chroma = (
        torch.from_numpy(plane_values(plane, bits=stored_bits).astype(np.float32))
        # libswscale shifts a shallower value to the top of the 16 bits.
        / 2 ** (stored_bits - bits)
        for plane in frame.planes
    )
    return planes_to_rgb(
        luma,
        torch.stack(chroma),
        matrix=matrix_of(frame.colorspace, height=frame.height),
        scale=scale_of(bits, full_range=named_full or frame.color_range == _RANGE_FULL),
        centred=named_full,
    )


def _plain_format(frame: VideoFrame) -> str:
    """Choose a format of separate 16-bit planes, with chroma as coarse as the frame's own."""
    chroma = frame.format.components[1]
    step = round(frame.height / chroma.height), round(frame.width / chroma.width)
    return {(2, 2): "yuv420p16le", (1, 2): "yuv422p16le"}.get(step, "yuv444p16le")


def _is_rgb(frame: VideoFrame) -> bool:
    """Tell whether the planes hold colours (or grey, which is full range unless tagged) as such."""
    return frame.format.is_rgb or frame.format.name.startswith(("gray", "ya", "mono", "pal"))


def _bits(frame: VideoFrame) -> int:
    return max(component.bits for component in frame.format.components)


def _quarter_turns(frame: VideoFrame) -> int:
    """Count the turns, anticlockwise, that bring a frame upright."""
    return round(frame.rotation / 90)


def _rate(stream: VideoStream, path: Path) -> Fraction:
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    if not rate:
        raise MediaError(f"{path} does not tell its frames per second; export the video again.")
    return rate


def _count_frames(path: Path) -> int:
    """Count the coded frames without decoding them."""
    with _opened(path) as (container, stream), _naming_errors(path):
        return sum(1 for packet in container.demux(stream) if packet.size and not packet.is_discard)


def _decoded(container: InputContainer, stream: VideoStream, path: Path) -> Iterator[VideoFrame]:
    stream.thread_type = "AUTO"
    with _naming_errors(path):
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise MediaError(f"{path} is damaged or cut short; copy or export it again.")
            yield from packet.decode()


@contextmanager
def _opened(path: Path) -> Generator[tuple[InputContainer, VideoStream], None, None]:
    check_readable(path, kind="video")
    _check_whole(path)
    with _naming_errors(path):
        # No playlist may lead to the network: only files are read.
        container = av.open(
            str(path.absolute()),
            options={"protocol_whitelist": "file"},
            metadata_errors="replace",  # old titles are in many alphabets, few of them UTF-8
        )
    with container:
        stream = _video_stream(container)
        if stream is None:
            raise MediaError(
                f"{path} holds no video that can be read here; name an MP4, MOV, MKV or WebM file."
            )
        if stream.codec_context.color_trc in _HDR_TRANSFERS:
            _log.warning("%s is HDR; its colours are taken as they are and look pale", path)
        yield container, stream


def _video_stream(container: InputContainer) -> VideoStream | None:
    """Find the first stream that moves: no cover picture, no text drawn as video."""
    for stream in container.streams.video:
        # The stub does not know that a stream without a decoder has no context.
        if stream.codec_context is None:  # pyright: ignore[reportUnnecessaryComparison]
            continue
        cover = stream.disposition & Disposition.attached_pic
        if stream.codec_context.name != "ansi" and not cover:
            return stream
    return None


def _check_whole(path: Path) -> None:
    """Refuse a file that claims more bytes than it has.

    Raises:
        MediaError: if it is cut short.
    """
    nbytes, stated = path.stat().st_size, stated_nbytes(path)
    if nbytes < stated:
        raise MediaError(
            f"{path} is cut short: it has {nbytes} of {stated} bytes; copy or export it again."
        )


@contextmanager
def _naming_errors(path: Path) -> Generator[None, None, None]:
    """Turn FFmpeg's failures into ours.

    Raises:
        MediaError: with FFmpeg's reason.
    """
    try:
        yield
    except FFmpegError as error:
        raise MediaError(
            f"{path} cannot be read as a video ({error.strerror}); it is damaged, cut short or of "
            f"another kind: export it again as MP4."
        ) from error
