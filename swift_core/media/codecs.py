"""The ways to store a clip, as data."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ..errors import MediaError, OutputError
from ..geometry import PixelShape


class VideoCodec(Enum):
    """How a clip is stored."""

    H264 = "h264"
    HEVC10 = "hevc10"
    PRORES = "prores"
    FFV1 = "ffv1"


@dataclass(frozen=True, kw_only=True)
class CodecSpec:
    """What FFmpeg needs to know of a codec.

    Attributes:
        suffixes: the containers it may stand in.
        bits: of each stored value.
        chroma_step: rows and columns that share one chroma value; None: stored as RGB, lossless.
        quality: the default constant rate factor, 0 (best) to 51; None: the codec has no such knob.
        bits_per_pixel: of a clip with film grain at the default quality; smooth ones take less.
        least_side: the shortest side it stores.
        tag: the name of the codec in MP4 and MOV, where the usual one is not understood by all.
    """

    encoder: str
    suffixes: tuple[str, ...]
    pixel_format: str
    bits: int
    chroma_step: tuple[int, int] | None
    quality: int | None
    bits_per_pixel: float
    least_side: int = 2
    options: tuple[tuple[str, str], ...] = ()
    tag: str | None = None


WORST_QUALITY = 51

CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}

CODECS = {
    VideoCodec.H264: CodecSpec(
        encoder="libx264",
        bits_per_pixel=1.2,
        suffixes=(".mp4", ".mov", ".mkv"),
        pixel_format="yuv420p",
        bits=8,
        chroma_step=(2, 2),
        quality=16,
        options=(("preset", "medium"),),
    ),
    VideoCodec.HEVC10: CodecSpec(
        encoder="libx265",
        bits_per_pixel=0.9,
        suffixes=(".mp4", ".mov", ".mkv"),
        pixel_format="yuv420p10le",
        bits=10,
        chroma_step=(2, 2),
        quality=16,
        least_side=64,  # x265 4.2 writes past its memory at widths of 34 to 48, and crashes
        options=(("preset", "medium"), ("x265-params", "log-level=error")),
        tag="hvc1",  # FFmpeg's own choice, hev1, does not play on Apple's devices
    ),
    VideoCodec.PRORES: CodecSpec(
        encoder="prores_ks",
        bits_per_pixel=4.3,
        suffixes=(".mov",),
        pixel_format="yuv422p10le",
        bits=10,
        chroma_step=(1, 2),
        quality=None,
        options=(("profile", "3"), ("vendor", "apl0")),  # 3: 422 HQ
    ),
    VideoCodec.FFV1: CodecSpec(
        encoder="ffv1",
        bits_per_pixel=14.0,
        suffixes=(".mkv",),
        least_side=1,
        pixel_format="bgr0",  # what FFV1 calls 8-bit RGB; it takes gbrp from 9 bits on only
        bits=8,
        chroma_step=None,
        quality=None,
        options=(("level", "3"), ("slicecrc", "1")),
    ),
}


def video_nbytes(shape: PixelShape, codec: VideoCodec) -> int:
    """Estimate how large a video file becomes; one of much noise becomes larger."""
    pixels = shape.pixel_frames * shape.height * shape.width
    return int(pixels * CODECS[codec].bits_per_pixel / 8)


def codecs_for(suffix: str) -> tuple[VideoCodec, ...]:
    """List the codecs that may stand in a file with this suffix, the default one first."""
    return tuple(codec for codec, spec in CODECS.items() if suffix.lower() in spec.suffixes)


def check_output(path: Path, codec: VideoCodec) -> None:
    """Refuse a file name whose suffix cannot hold the codec.

    Raises:
        OutputError: naming what goes together.
    """
    allowed = CODECS[codec].suffixes
    if path.suffix.lower() in allowed:
        return
    others = ", ".join(other.value for other in codecs_for(path.suffix)) or "no codec here"
    raise OutputError(
        f"{path.name}: {codec.value} is stored in {' or '.join(allowed)}, and "
        f"{path.suffix or 'a name without suffix'!r} holds {others}; change one of the two."
    )


def quality_of(codec: VideoCodec, quality: int | None) -> int | None:
    """Give the constant rate factor to encode with; None where the codec has none.

    Raises:
        MediaError: if ``quality`` is out of range, or given to a codec that has none.
    """
    default = CODECS[codec].quality
    if quality is None:
        return default
    if default is None:
        raise MediaError(f"{codec.value} has one quality only; leave quality {quality} out.")
    if not 0 <= quality <= WORST_QUALITY:
        raise MediaError(
            f"quality {quality} does not exist; choose 0 (best) to {WORST_QUALITY} (worst), "
            f"usual is {default}."
        )
    return quality


def check_size(codec: VideoCodec, *, height: int, width: int) -> None:
    """Refuse a size that the codec cannot store.

    Raises:
        MediaError: naming the sizes that work.
    """
    spec = CODECS[codec]
    rows, columns = spec.chroma_step or (1, 1)
    if min(height, width) < spec.least_side or height % rows or width % columns:
        raise MediaError(
            f"{codec.value} cannot store {width}x{height}: sides must be {spec.least_side} or more,"
            f" the width a multiple of {columns}, the height of {rows}; scale or cut the clip, or "
            f"store it as ffv1."
        )
