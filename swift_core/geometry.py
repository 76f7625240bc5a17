"""The only arithmetic between pixels, latents and tokens.

Wan's causal VAEs give the first pixel frame a latent frame of its own and then pack ``time``
pixel frames into each: ``pixel_frames = time * (latent_frames - 1) + 1``.
"""

from dataclasses import dataclass

from .errors import GeometryError

OUTPUT_MULTIPLE = 64
"""Output sides are multiples of this, so that a quarter of them fits an 8x8 VAE and a 2x2 patch."""

LARGEST_SIDE = 16384
"""Pixels; no encoder takes more."""

MOST_PIXEL_FRAMES = 10_001
"""Ten minutes at 16 frames per second."""

MOTION_SCALE = 4
"""The motion clip has a quarter of the output's sides: 640x352 for 2560x1408 (paper: 360P, 2K)."""


@dataclass(frozen=True, kw_only=True)
class Compression:
    """How many pixels, in time and in each direction of space, make one latent value."""

    time: int
    space: int


@dataclass(frozen=True, kw_only=True)
class Patch:
    """How many latent values, in time and in each direction of space, make one token."""

    time: int
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class LatentShape:
    """Size of a clip in latent space; one clip, so there is no batch."""

    channels: int
    latent_frames: int
    height: int
    width: int

    def tokens_per_frame(self, patch: Patch) -> int:
        """Count the tokens of one latent frame."""
        return (self.height // patch.height) * (self.width // patch.width) // patch.time


@dataclass(frozen=True, kw_only=True)
class PixelShape:
    """Size of a clip in pixels."""

    pixel_frames: int
    height: int
    width: int

    def latent(self, compression: Compression, *, channels: int) -> LatentShape:
        """Convert to the size in latent space.

        Raises:
            GeometryError: if the clip does not fill whole latent values.
        """
        for name, side in (("height", self.height), ("width", self.width)):
            if side < 1 or side % compression.space:
                raise GeometryError(
                    f"{name} {side} is not a multiple of {compression.space}, the VAE's spatial "
                    f"compression; the nearest is {nearest_multiple(side, compression.space)}."
                )
        return LatentShape(
            channels=channels,
            latent_frames=latent_frames_of(self.pixel_frames, time=compression.time),
            height=self.height // compression.space,
            width=self.width // compression.space,
        )

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.pixel_frames} frames"


def nearest_multiple(value: int, multiple: int) -> int:
    """Snap to the nearest positive multiple; a tie goes up."""
    return max(1, (2 * value + multiple) // (2 * multiple)) * multiple


def pixel_frames_of(latent_frames: int, *, time: int = 4) -> int:
    """Count the pixel frames that decode from so many latent frames."""
    return time * (latent_frames - 1) + 1


def nearest_pixel_frames(pixel_frames: int, *, time: int = 4) -> int:
    """Snap to the nearest number of pixel frames that fills whole latent frames; a tie goes up."""
    return pixel_frames_of(max(1, (2 * (pixel_frames - 1) + time) // (2 * time) + 1), time=time)


def latent_frames_of(pixel_frames: int, *, time: int = 4) -> int:
    """Count the latent frames of a clip.

    Raises:
        GeometryError: if ``pixel_frames`` is not ``time * n + 1``, or too many.
    """
    if pixel_frames < 1 or (pixel_frames - 1) % time:
        raise GeometryError(
            f"{pixel_frames} frames cannot be encoded: the number must be {time}n+1; "
            f"the nearest is {nearest_pixel_frames(pixel_frames, time=time)}."
        )
    if pixel_frames > MOST_PIXEL_FRAMES:
        raise GeometryError(
            f"{pixel_frames} frames are too many: one run makes at most {MOST_PIXEL_FRAMES}."
        )
    return (pixel_frames - 1) // time + 1


def check_output_size(height: int, width: int, *, multiple: int = OUTPUT_MULTIPLE) -> None:
    """Refuse an output size whose sides are not multiples of ``multiple``.

    Raises:
        GeometryError: naming the nearest size that works, or the largest side.
    """
    if height < 1 or width < 1 or height % multiple or width % multiple:
        raise GeometryError(
            f"size {width}x{height} does not work: both sides must be multiples of {multiple}; "
            f"the nearest is {nearest_multiple(width, multiple)}x"
            f"{nearest_multiple(height, multiple)}."
        )
    if max(height, width) > LARGEST_SIDE:
        raise GeometryError(
            f"size {width}x{height} is too large: no side may be longer than {LARGEST_SIDE}."
        )


def motion_shape(output: PixelShape) -> PixelShape:
    """Give the size of the motion clip for an output clip."""
    return PixelShape(
        pixel_frames=output.pixel_frames,
        height=output.height // MOTION_SCALE,
        width=output.width // MOTION_SCALE,
    )
