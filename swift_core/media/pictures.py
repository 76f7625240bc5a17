"""Pictures on disk, as the core sees them: ``h w 3``, fp32 in [0, 1], sRGB.

Axes: ``p`` pixel frames, ``h w`` height and width in pixels, 3 colours.

What files hold besides that is resolved here, once: orientation, palettes, bit depths, colour
profiles. Transparency is laid over white.
"""

import io
import logging
from collections.abc import Generator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, ImageSequence, UnidentifiedImageError
from torch.nn import functional as F

from ..errors import MediaError, OutputError
from ..files import PICTURE_SUFFIXES, check_readable, part_file
from ..shapes import Float, Tensor
from .levels import to_levels

MOST_PIXELS = 200_000_000
"""A larger picture is refused: 200 megapixels are 2.4 GB in memory."""

JPEG_QUALITY = 95

_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""What Pillow raises from a damaged file, as shown by damaging files at random."""

_WITHOUT_ALPHA = {"1": "L", "LA": "L", "P": "RGB", "PA": "RGB", "RGBA": "RGB", "RGBX": "RGB"}
"""The mode that holds the same colours in whole bytes; a profile is made for that one."""

_limit_lock = Lock()
_log = logging.getLogger(__name__)


def load_picture(path: Path) -> Float[Tensor, "h w 3"]:
    """Read a picture the way it is meant to be seen.

    The camera's orientation is applied, an embedded colour profile is converted to sRGB,
    transparency is laid over white, and 16-bit grey keeps its depth. An animation gives its
    first frame. 16-bit colour comes with 8 bits, as Pillow reads it.

    Raises:
        MediaError: if the file is missing, damaged, no picture, or above ``MOST_PIXELS``.
    """
    check_readable(path, kind="picture")
    with _opened(path) as image:
        try:
            return to_picture(image)
        except _UNREADABLE as error:
            raise MediaError(
                f"{path} is damaged or cut short ({error}); save or copy the picture again."
            ) from error


def load_frames(
    path: Path, *, most_frames: int | None = None
) -> tuple[list[Float[Tensor, "h w 3"]], float]:
    """Read the frames of an animated picture, and their mean time in milliseconds.

    The time is 0 if the file gives none.

    Args:
        most_frames: read no more than so many.

    Raises:
        MediaError: as ``load_picture``.
    """
    check_readable(path, kind="picture")
    pictures: list[Tensor] = []
    milliseconds = 0.0
    with _opened(path) as image:
        try:
            for frame in islice(ImageSequence.Iterator(image), most_frames):
                frame.load()  # the time of a WebP frame is known only now
                milliseconds += float(frame.info.get("duration", 0))
                pictures.append(to_picture(frame))
        except _UNREADABLE as error:
            raise MediaError(
                f"{path} is damaged at frame {len(pictures) + 1} ({error}); save or copy it again."
            ) from error
    return pictures, milliseconds / len(pictures)


def save_picture(picture: Float[Tensor, "h w 3"], path: Path) -> None:
    """Write a picture as PNG or JPEG, by the suffix; missing folders are made.

    Raises:
        OutputError: if the suffix is neither or the place cannot be written.
        MediaError: if the picture holds values that are not numbers.
    """
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise OutputError(
            f"{path} ends in {path.suffix or 'no suffix'!r}, which is no picture; "
            f"use one of {', '.join(PICTURE_SUFFIXES)}."
        )
    levels = to_levels(picture, top=255).cpu().numpy().astype(np.uint8)
    with part_file(path) as part:
        try:
            # Full chroma: a picture that is saved here may be the input of the next run.
            Image.fromarray(levels).save(part, quality=JPEG_QUALITY, subsampling=0)
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written ({error}); free some space or choose another folder."
            ) from error


def fit_picture(
    picture: Float[Tensor, "h w 3"], *, height: int, width: int
) -> Float[Tensor, "height width 3"]:
    """Scale a picture until it covers the size, and cut away evenly what stands over.

    A picture that has the size already is returned as it is.

    Raises:
        MediaError: if the size is not positive.
    """
    return fit_clip(picture[None], height=height, width=width)[0]


def fit_clip(
    frames: Float[Tensor, "p h w 3"], *, height: int, width: int
) -> Float[Tensor, "p height width 3"]:
    """Fit every frame of a clip as ``fit_picture`` does, one at a time.

    Raises:
        MediaError: if the size is not positive.
    """
    if height < 1 or width < 1:
        raise MediaError(f"size {width}x{height} is no size; both sides must be 1 or more.")
    have_height, have_width = frames.shape[1:3]
    if (have_height, have_width) == (height, width):
        return frames
    # Cut first: what will not be seen is not scaled, however large the picture is.
    cut_height = min(have_height, max(1, round(have_width * height / width)))
    cut_width = min(have_width, max(1, round(have_height * width / height)))
    top, left = (have_height - cut_height) // 2, (have_width - cut_width) // 2
    cut = frames[:, top : top + cut_height, left : left + cut_width]
    fitted = frames.new_empty(frames.shape[0], height, width, 3)
    for source, target in zip(cut, fitted, strict=True):
        scaled = F.interpolate(
            source.permute(2, 0, 1)[None], (height, width), mode="bicubic", antialias=True
        )
        target.copy_(scaled[0].permute(1, 2, 0).clamp_(0, 1))  # bicubic overshoots at edges
    return fitted


def to_picture(image: Image.Image) -> Float[Tensor, "h w 3"]:
    """Resolve a Pillow image, of whatever mode, to the core's form."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        grey = _grey_levels(image)
        return grey[..., None].expand(-1, -1, 3).contiguous()
    colour = torch.from_numpy(np.array(_to_srgb(image))).float().div_(255)
    if not image.has_transparency_data:
        return colour
    opacity = np.array(image.convert("RGBA").getchannel("A"))
    return colour.lerp(torch.ones(()), 1 - torch.from_numpy(opacity).float()[..., None] / 255)


def _to_srgb(image: Image.Image) -> Image.Image:
    """Convert to sRGB through the image's own colour profile, if it has one, without alpha."""
    embedded = image.info.get("icc_profile")
    image = image.convert(_WITHOUT_ALPHA.get(image.mode, image.mode))
    if not embedded:
        return image.convert("RGB")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(embedded))
        if ImageCms.getProfileDescription(profile).startswith("sRGB"):
            return image.convert("RGB")
        converted = ImageCms.profileToProfile(
            image,
            profile,
            ImageCms.createProfile("sRGB"),  # pyright: ignore[reportUnknownArgumentType] stub has no type
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError) as error:
        _log.warning("the picture's colour profile cannot be used and is ignored: %s", error)
        return image.convert("RGB")
    return image.convert("RGB") if converted is None else converted


def _grey_levels(image: Image.Image) -> Float[Tensor, "h w"]:
    """Scale deep grey to [0, 1] by the smallest usual white that holds its brightest value.

    The files do not say what white is: floats are in [0, 1], or hold 8-bit or 16-bit levels, or
    are open-ended; whole numbers are 16 bits unless they exceed them.
    """
    values = np.array(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not numbers")
    lowest, highest = min(0.0, float(values.min())), float(values.max())
    whites = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    white = next((white for white in whites if highest <= white), highest)
    return torch.from_numpy(((values - lowest) / (white - lowest)).astype(np.float32))


@contextmanager
def _opened(path: Path) -> Generator[Image.Image, None, None]:
    """Open a picture without decoding it, under our own limit of size."""
    try:
        with _limit_lock:
            # Pillow's limit is global and lower; ours is checked below, before any decoding.
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                image = Image.open(path)
            finally:
                Image.MAX_IMAGE_PIXELS = limit
    except UnidentifiedImageError as error:
        raise MediaError(
            f"{path} is not a picture that can be read here; save it as PNG or JPEG."
        ) from error
    except _UNREADABLE as error:
        raise MediaError(f"{path} cannot be read ({error}); save or copy it again.") from error
    with image:
        if image.width * image.height > MOST_PIXELS:
            raise MediaError(
                f"{path} has {image.width}x{image.height} pixels, more than "
                f"{MOST_PIXELS // 1_000_000} million; scale it down first."
            )
        yield image
