"""The hybrid reference: the motion clip in large, its first frame the picture itself, encoded.

The paper upsamples in pixel space, puts the picture in the place of frame 0 and encodes with the
VAE of Stage II. So latent frame 0, a causal VAE's encoding of one frame alone, is the picture.

Beyond the paper, and only where asked for: what the clip is too small to show is carried along its
motion from the picture into the enlarged frames.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import torch

from ..errors import MediaError
from ..geometry import (
    MOTION_SCALE,
    OUTPUT_MULTIPLE,
    PixelShape,
    nearest_multiple,
    nearest_pixel_frames,
)
from ..media.pictures import fit_clip, fit_picture
from ..media.sources import ClipSource, as_source, chunks_of
from ..progress import Phase
from ..shapes import Float, Tensor
from ..tracking.carry import DetailCarrier, check_carry
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
    carry: float = 0.0,
    runtime: Runtime,
) -> Float[Tensor, "1 c t i j"]:
    """Build the reference latent of Stage II.

    The clip is resized chunk by chunk: it never exists at the output's size as a whole.

    Args:
        picture: of any size; cropped to the output's shape.
        motion: as long as the output; of any size, cropped to the output's shape.
        carry: share of the picture's detail that its frames are given; 0 is the paper's reference.

    Raises:
        MediaError: if the motion clip is of another length or of quite another shape.
        GeometryError: if ``carry`` is no share.

    Source: SwiftI2V, arXiv 2605.06356, hybrid reference construction.
    """
    source = as_source(motion)
    check_motion(source.shape, output)
    check_carry(carry)
    time = vae.config.compression.time

    def chunks() -> Iterator[Float[Tensor, "1 3 p h w"]]:
        first = fit_picture(picture, height=output.height, width=output.width)
        yield to_pixels(first.unsqueeze(0), runtime)
        device = workplace(runtime.device)
        enlarge = enlarging(first.to(device), carry)
        for chunk in islice(chunks_of(source, time=time), 1, None):
            yield to_pixels(enlarge(chunk.to(device)), runtime)

    return encode_clip(
        vae,
        chunks,
        shape=output,
        phase=Phase.REFERENCE,
        runtime=runtime,
    )


def workplace(device: torch.device) -> torch.device:
    """Tell where frames are enlarged: where there is most power, but for Apple's GPUs.

    PyTorch has no bicubic lookup for those, and in some versions no antialiased resizing.
    """
    return torch.device("cpu") if device.type == "mps" else device


def enlarging(
    picture: Float[Tensor, "height width 3"], carry: float
) -> Callable[[Float[Tensor, "p h w 3"]], Float[Tensor, "p height width 3"]]:
    """Give what brings a motion clip's frames after the first to the picture's size.

    Args:
        picture: frame 0, in large.
        carry: see ``build_reference``; where it is not 0, frames must come in order.
    """
    height, width = picture.shape[:2]
    if not carry:
        return partial(fit_clip, height=height, width=width)
    small = {"height": height // MOTION_SCALE, "width": width // MOTION_SCALE}
    carrier = DetailCarrier(picture, **small, share=carry)

    def enlarge(frames: Float[Tensor, "p h w 3"]) -> Float[Tensor, "p height width 3"]:
        made = fit_clip(frames, height=height, width=width)
        return torch.stack(list(map(carrier.carry, fit_clip(frames, **small), made)))

    return enlarge
