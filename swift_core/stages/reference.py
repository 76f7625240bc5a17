"""The hybrid reference: the motion clip in large, its first frame the picture itself, encoded.

The paper upsamples in pixel space, puts the picture in the place of frame 0 and encodes with the
VAE of Stage II. So latent frame 0, a causal VAE's encoding of one frame alone, is the picture.
"""

import math
from collections.abc import Iterator
from itertools import islice

from ..errors import MediaError
from ..geometry import (
    OUTPUT_MULTIPLE,
    PixelShape,
    nearest_multiple,
    nearest_pixel_frames,
)
from ..media.pictures import fit_clip, fit_picture
from ..media.sources import ClipSource, as_source, chunks_of
from ..progress import Phase
from ..shapes import Float, Tensor
from ..vae.autoencoder import WanVAE
from .pixels import encode_clip, to_pixels
from .runtime import Runtime

Motion = Float[Tensor, "p h w 3"] | ClipSource
"""A motion clip in memory, or one that is read as it is needed."""

MOST_STRETCH = 1.1
"""How far the clip's shape may be from the video's: beyond, too much would be cut away unasked."""


def check_motion(clip: PixelShape, output: PixelShape) -> None:
    """Refuse a motion clip that is not as long as the output, or of quite another shape.

    Raises:
        MediaError: naming both lengths, or both sizes.
    """
    have, wanted = clip.pixel_frames, output.pixel_frames
    if have != wanted:
        fits = have > 1 and nearest_pixel_frames(have) == have
        other = f", or ask for a video of {have}" if fits else " (a length is 4n+1)"
        counted = "1 frame" if have == 1 else f"{have} frames"
        raise MediaError(
            f"the motion clip has {counted}, the video is to have {wanted}; cut or retime the "
            f"clip to {wanted} frames{other}."
        )
    height, width = clip.height, clip.width
    stretch = (width / height) / (output.width / output.height)
    if not 1 / MOST_STRETCH <= stretch <= MOST_STRETCH:
        shape = _shape_of(width / height, area=output.width * output.height)
        raise MediaError(
            f"the motion clip is {width}x{height}, the video is to be {output.width}x"
            f"{output.height}: {1 - min(stretch, 1 / stretch):.0%} of every frame would be cut "
            f"away. Crop the clip to the video's shape, or ask for a video of {shape}."
        )


def _shape_of(aspect: float, *, area: int) -> str:
    """Name a size of that width per height and about as many pixels."""
    width = nearest_multiple(round(math.sqrt(area * aspect)), OUTPUT_MULTIPLE)
    height = nearest_multiple(round(math.sqrt(area / aspect)), OUTPUT_MULTIPLE)
    return f"{width}x{height}"


def build_reference(
    vae: WanVAE,
    picture: Float[Tensor, "height width 3"],
    motion: Motion,
    *,
    output: PixelShape,
    runtime: Runtime,
) -> Float[Tensor, "1 c t i j"]:
    """Build the reference latent of Stage II.

    The clip is resized chunk by chunk: it never exists at the output's size as a whole.

    Args:
        picture: of any size; cropped to the output's shape.
        motion: as long as the output; of any size, cropped to the output's shape.

    Raises:
        MediaError: if the motion clip is of another length or of quite another shape.

    Source: SwiftI2V, arXiv 2605.06356, hybrid reference construction.
    """
    source = as_source(motion)
    check_motion(source.shape, output)
    size = {"height": output.height, "width": output.width}
    time = vae.config.compression.time

    def chunks() -> Iterator[Float[Tensor, "1 3 p h w"]]:
        yield to_pixels(fit_picture(picture, **size).unsqueeze(0), runtime)
        for chunk in islice(chunks_of(source, time=time), 1, None):
            # Enlarged where there is most power for it.
            yield to_pixels(fit_clip(chunk.to(runtime.device), **size), runtime)

    return encode_clip(
        vae,
        chunks,
        shape=output,
        phase=Phase.REFERENCE,
        runtime=runtime,
    )
