"""A video file written as a stream: frames come, are stored, and are forgotten.

Axes: ``p`` pixel frames, ``h w`` height and width in pixels, 3 colours (sRGB in [0, 1]).

Colour is BT.709 in limited range, computed in floats and rounded once, and the file says so:
players guess for files that do not. FFV1 alone keeps 8-bit RGB, so it is lossless for such frames.
"""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from torch.nn import functional as F

from ..errors import MediaError, OutputError
from ..files import part_file
from ..shapes import Float, Tensor
from .codecs import (
    CODECS,
    CONTAINERS,
    CodecSpec,
    VideoCodec,
    check_output,
    check_size,
    quality_of,
)
from .colour import rgb_to_planes
from .levels import check_numbers, to_levels
from .planes import plane_values

_BT709 = 1  # primaries, transfer and matrix of BT.709 have the number 1 in ITU-T H.273
_MATRIX_RGB = 0
_RANGE_LIMITED, _RANGE_FULL = 1, 2  # FFmpeg's numbers


class VideoWriter:
    """Write a clip frame by frame; the file appears when all of it is there.

    Use it in a ``with`` statement. If the block ends with an exception, whatever it is, the part
    that was written is removed, and a file that had the name before is still there.
    """

    def __init__(
        self,
        path: Path,
        *,
        codec: VideoCodec,
        frames_per_second: Fraction,
        height: int,
        width: int,
        quality: int | None = None,
    ) -> None:
        """Check everything that can be checked before there are frames; touch no disk.

        Args:
            quality: constant rate factor of h264 and hevc10, 0 (best) to 51.

        Raises:
            OutputError: if the suffix cannot hold the codec.
            MediaError: if the codec cannot store the size, rate or quality.
        """
        check_output(path, codec)
        check_size(codec, height=height, width=width)
        if frames_per_second <= 0:
            raise MediaError(f"{frames_per_second} frames per second is no rate; 16 is usual.")
        self.path = path
        self.frames_per_second = frames_per_second
        self.height, self.width = height, width
        self.pixel_frames = 0
        self._spec = CODECS[codec]
        self._quality = quality_of(codec, quality)
        self._stack = ExitStack()
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None

    def __enter__(self) -> "VideoWriter":
        with ExitStack() as stack:
            part = stack.enter_context(part_file(self.path))
            stack.enter_context(_naming_errors(self.path))
            self._container = stack.enter_context(_container(part))
            self._stream = self._add_stream(self._container)
            # Now, and not with the first frame: an encoder that refuses should refuse early.
            self._container.start_encoding()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            if self.pixel_frames == 0:
                raise MediaError(f"{self.path} was not written: no frames were given.")
            self._encode(None)

    def write(self, frames: Float[Tensor, "p h w 3"]) -> None:
        """Append frames; they may lie on any device.

        Raises:
            MediaError: if they have another size than the file, or hold values that are not
                numbers.
            OutputError: if the disk is full or the encoder fails.
        """
        height, width = frames.shape[1:3]
        if (height, width) != (self.height, self.width):
            raise MediaError(
                f"frames of {width}x{height} do not fit {self.path.name}, which has "
                f"{self.width}x{self.height}; scale them first."
            )
        for picture in frames:
            frame = to_video_frame(picture, self._spec)
            frame.pts = self.pixel_frames
            frame.time_base = 1 / self.frames_per_second
            self._encode(frame)
            self.pixel_frames += 1

    def _encode(self, frame: VideoFrame | None) -> None:
        """Encode a frame, or what the encoder still holds if there is none."""
        if self._container is None or self._stream is None:
            raise RuntimeError("VideoWriter.write works only inside a with statement")
        with _naming_errors(self.path):
            self._container.mux(self._stream.encode(frame))

    def _add_stream(self, container: OutputContainer) -> VideoStream:
        spec = self._spec
        options = dict(spec.options)
        if self._quality is not None:
            options["crf"] = str(self._quality)
        stream = container.add_stream(spec.encoder, rate=self.frames_per_second, options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = self.height, self.width
        stream.pix_fmt = spec.pixel_format
        context = stream.codec_context
        context.time_base = 1 / self.frames_per_second
        context.color_primaries = context.color_trc = _BT709
        context.colorspace, context.color_range = _colour_tags(spec)
        if spec.tag is not None and self.path.suffix.lower() != ".mkv":
            context.codec_tag = spec.tag
        return stream


def _colour_tags(spec: CodecSpec) -> tuple[int, int]:
    """Give the matrix and the range that the planes are in."""
    if spec.chroma_step is None:
        return _MATRIX_RGB, _RANGE_FULL
    return _BT709, _RANGE_LIMITED


def to_video_frame(picture: Float[Tensor, "h w 3"], spec: CodecSpec) -> VideoFrame:
    """Give FFmpeg one frame in the form that the codec stores."""
    height, width = picture.shape[:2]
    frame = VideoFrame(width, height, spec.pixel_format)
    frame.colorspace, frame.color_range = _colour_tags(spec)
    if hasattr(frame, "color_primaries"):  # not in PyAV 14; only ProRes reads them from frames
        frame.color_primaries = frame.color_trc = _BT709
    if spec.chroma_step is None:
        levels = to_levels(picture, top=255).flip(-1)  # bgr0: blue first, a fourth byte unused
        packed = F.pad(levels, (0, 1)).flatten(1)
        plane_values(frame.planes[0], bits=8, channels=4)[:] = packed.cpu().numpy()
        return frame
    # Colour by colour in memory, as the arithmetic goes through it.
    picture = picture.movedim(-1, 0).contiguous().movedim(0, -1)
    check_numbers(picture)
    shades = picture.float().clamp(0, 1)
    planes = rgb_to_planes(shades, bits=spec.bits, chroma_step=spec.chroma_step)
    for plane, values in zip(frame.planes, planes, strict=True):
        plane_values(plane, bits=spec.bits)[:] = values.cpu().numpy()
    return frame


@contextmanager
def _container(part: Path) -> Generator[OutputContainer, None, None]:
    """Open the file for writing; finish it if all goes well, else only let go of it."""
    suffix = part.suffix.lower()
    # The index goes to the front, so that a browser can play before it has the whole file.
    options = {"movflags": "+faststart"} if suffix in (".mp4", ".mov") else {}
    container = av.open(str(part.absolute()), "w", format=CONTAINERS[suffix], options=options)
    try:
        yield container
    except BaseException:
        with suppress(FFmpegError):
            container.close()
        raise
    container.close()


@contextmanager
def _naming_errors(path: Path) -> Generator[None, None, None]:
    """Turn FFmpeg's failures into ours.

    Raises:
        OutputError: with FFmpeg's reason.
    """
    try:
        yield
    except FFmpegError as error:
        raise OutputError(
            f"{path} could not be written ({error.strerror}); see whether the disk is full, or "
            f"choose another folder or codec."
        ) from error
