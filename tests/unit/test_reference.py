"""Which motion clips are taken, and what is said of the others."""

import re
from dataclasses import replace

import pytest
import torch

from swift_core.errors import MediaError
from swift_core.geometry import PixelShape
from swift_core.live_bytes import LiveBytes
from swift_core.stages.reference import build_reference, check_motion, workplace
from tests.models import RUNTIME, small_vae

VIDEO = PixelShape(pixel_frames=9, height=1408, width=2560)


def clip(width, height, frames=9):
    return PixelShape(pixel_frames=frames, height=height, width=width)


@pytest.mark.parametrize(
    "size", [(640, 352), (832, 480), (1920, 1080), (1280, 640), (2560, 1408), (20, 11)]
)
def test_a_little_may_be_cut_away(size):
    check_motion(clip(*size), VIDEO)


@pytest.mark.parametrize(
    ("size", "lost", "instead"),
    [
        ((1080, 1920), "69%", "1408x2560"),
        ((640, 640), "45%", "1920x1920"),
        ((720, 480), "17%", "2304x1536"),
        ((1920, 800), "24%", "2944x1216"),
    ],
)
def test_a_clip_of_another_shape_is_refused(size, lost, instead):
    width, height = size
    sentence = (
        f"the motion clip is {width}x{height}, the video is to be 2560x1408: {lost} of every frame "
        f"would be cut away. Crop the clip to the video's shape, or ask for a video of {instead}."
    )
    with pytest.raises(MediaError, match=f"^{re.escape(sentence)}$"):
        check_motion(clip(*size), VIDEO)


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (13, "has 13 frames, .* to have 9; .* to 9 frames, or ask for a video of 13"),
        (10, r"has 10 frames, .* to have 9; .* to 9 frames \(a length is 4n\+1\)"),
        (1, r"has 1 frame, .* to have 9; .* to 9 frames \(a length is 4n\+1\)"),
    ],
)
def test_a_clip_of_another_length_is_refused(frames, said):
    with pytest.raises(MediaError, match=f"^the motion clip {said}\\.$"):
        check_motion(clip(640, 352, frames), VIDEO)


@pytest.mark.parametrize(
    ("device", "place"), [("cpu", "cpu"), ("cuda:1", "cuda:1"), ("mps", "cpu")]
)
def test_frames_are_enlarged_where_that_can_be_done(device, place):
    assert workplace(torch.device(device)) == torch.device(place)


@pytest.mark.parametrize("carry", [0.0, 1.0])
def test_a_longer_clip_is_never_there_as_a_whole(carry):
    """In large; of what is kept for it only the latent grows."""
    vae, output = small_vae(), PixelShape(pixel_frames=9, height=128, width=192)
    draws = torch.Generator().manual_seed(0)
    picture = torch.rand((128, 192, 3), generator=draws)

    def peak(frames):
        motion = torch.rand((frames, 32, 48, 3), generator=draws)
        shape = replace(output, pixel_frames=frames)
        with torch.inference_mode(), LiveBytes([picture, motion, *vae.parameters()]) as alive:
            latent = build_reference(
                vae, picture, motion, output=shape, carry=carry, runtime=RUNTIME
            )
        return alive.peak - latent.nbytes

    short, long = peak(9), peak(29)
    assert short > 4 * picture.nbytes, "it counts the frames that come together"
    assert long == pytest.approx(short, rel=0.02)
