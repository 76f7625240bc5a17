"""Colours against the formulas of the standards, written out here a second time."""

import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame

from swift_core.media.codecs import CODECS, VideoCodec
from swift_core.media.colour import (
    BT601,
    BT709,
    matrix_of,
    planes_to_rgb,
    rgb_to_planes,
    scale_of,
)
from swift_core.media.planes import plane_values
from swift_core.media.video_read import to_picture
from swift_core.media.video_write import to_video_frame

SOLIDS = [
    (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1),
    (1, 1, 1), (0, 0, 0), (0.5, 0.5, 0.5), (0.2, 0.7, 0.9), (0.9, 0.3, 0.1),
]  # fmt: skip


def bt709(red, green, blue, bits):
    """BT.709-6, items 3.2 to 3.4, with the rounded coefficients that are printed there."""
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    unit = 2 ** (bits - 8)
    return (
        np.floor((219 * luma + 16) * unit + 0.5),
        np.floor((224 * (blue - luma) / 1.8556 + 128) * unit + 0.5),
        np.floor((224 * (red - luma) / 1.5748 + 128) * unit + 0.5),
    )


@pytest.mark.parametrize("colour", SOLIDS)
@pytest.mark.parametrize("codec", [VideoCodec.H264, VideoCodec.HEVC10, VideoCodec.PRORES])
def test_frames_hold_exactly_what_bt709_says(codec, colour):
    spec = CODECS[codec]
    frame = to_video_frame(torch.tensor(colour).float().expand(16, 24, 3), spec)
    assert frame.format.name == spec.pixel_format
    for plane, expected in zip(frame.planes, bt709(*colour, spec.bits), strict=True):
        assert (plane_values(plane, bits=spec.bits) == expected).all()


@pytest.mark.parametrize("colour", SOLIDS)
@pytest.mark.parametrize(("codec", "levels"), [(VideoCodec.H264, 1.2), (VideoCodec.HEVC10, 0.5)])
def test_solid_colours_return_through_a_frame(codec, levels, colour):
    """The bounds: half a step of luma and chroma, which blue amplifies most (to 2.0 steps)."""
    solid = torch.tensor(colour).float().expand(16, 24, 3)
    returned = to_picture(to_video_frame(solid, CODECS[codec]))
    assert (returned - solid).abs().max() < levels / 255


@pytest.mark.parametrize("codec", [VideoCodec.HEVC10, VideoCodec.PRORES])
@pytest.mark.parametrize("axis", [0, 1])
def test_colours_do_not_shift_in_place(codec, axis):
    """A ramp of one level per pixel returns without a bias; half a pixel would be 0.5 levels."""
    rise = torch.linspace(0, 1, 256)
    ramp = torch.stack((rise, torch.full_like(rise, 0.5), 1 - rise), -1)
    ramp = ramp.expand(256, -1, 3) if axis else ramp[:, None].expand(-1, 256, 3)
    error = (to_picture(to_video_frame(ramp, CODECS[codec])) - ramp)[4:-4, 4:-4] * 255
    assert error.mean((0, 1)).abs().max() < 0.01


def test_ffv1_holds_every_level_bit_for_bit():
    levels = torch.arange(256).float()
    picture = torch.stack((levels, levels.flip(0), levels.roll(9)), -1).expand(3, -1, 3) / 255
    assert torch.equal(to_picture(to_video_frame(picture, CODECS[VideoCodec.FFV1])), picture)


def test_values_outside_the_range_do_not_wrap():
    wild = torch.tensor([[[-1.0, 2, 1.001]]]).expand(4, 4, 3)
    for spec in CODECS.values():
        tame = to_video_frame(wild.clamp(0, 1), spec)
        for plane, expected in zip(to_video_frame(wild, spec).planes, tame.planes, strict=True):
            np.testing.assert_array_equal(
                plane_values(plane, bits=spec.bits), plane_values(expected, bits=spec.bits)
            )


def filled(name, values, *, bits, matrix=2, colour_range=0, height=16):
    frame = VideoFrame(32, height, name)
    for plane, value in zip(frame.planes, values, strict=True):
        plane_values(plane, bits=bits)[:] = value
    frame.colorspace, frame.color_range = matrix, colour_range
    return frame


def test_the_streams_own_matrix_and_range_are_honoured():
    """Red as BT.601 stores it, in limited and in full range (BT.601-7, 2.5; JFIF 1.02)."""
    limited, full = (81, 90, 240), (76, 85, 255)
    for name, values, tags in (
        ("yuv420p", limited, {"matrix": 5}),
        ("yuv420p", limited, {"matrix": 6, "colour_range": 1}),
        ("yuv422p", full, {"matrix": 5, "colour_range": 2}),
        ("yuvj420p", full, {"matrix": 5}),
        ("yuv444p10le", tuple(4 * value for value in limited), {"matrix": 5}),
    ):
        picture = to_picture(filled(name, values, bits=10 if "10" in name else 8, **tags))
        expected = torch.tensor([1.0, 0, 0]).expand_as(picture)
        assert (picture - expected).abs().max() < 2.1 / 255, (name, tags)


def test_untagged_clips_go_by_their_height():
    assert matrix_of(2, height=719) == BT601
    assert matrix_of(2, height=720) == BT709
    assert matrix_of(5, height=1080) == BT601
    assert matrix_of(1, height=64) == BT709


@pytest.mark.parametrize("name", ["gray", "gray10le"])
def test_grey_is_full_range(name):
    bits = 10 if "10" in name else 8
    for level in (0, 2**bits - 1, 100):
        picture = to_picture(filled(name, (level,), bits=bits))
        assert (picture * (2**bits - 1) - level).abs().max() <= 0.5 * 2 ** (bits - 8)


@pytest.mark.parametrize("name", ["nv12", "yuv411p", "yuv440p"])
def test_other_layouts_of_chroma_are_read(name):
    frame = VideoFrame(32, 16, name)
    for plane, value in zip(frame.planes, (126, 128, 128), strict=False):
        plane.update(bytes([value]) * plane.buffer_size)
    picture = to_picture(frame)
    assert picture.shape == (16, 32, 3)
    torch.testing.assert_close(picture, torch.full_like(picture, 110 / 219))


@pytest.mark.parametrize("step", [(2, 2), (1, 2)])
def test_sharing_and_spreading_flat_chroma_is_the_identity(step):
    picture = torch.tensor([0.3, 0.6, 0.2]).expand(8, 12, 3)
    luma, *chroma = rgb_to_planes(picture, bits=16, chroma_step=step)
    assert chroma[0].shape == (8 // step[0], 12 // step[1])
    scale = scale_of(16, full_range=False)
    returned = planes_to_rgb(
        luma.float(), torch.stack(chroma).float(), matrix=BT709, scale=scale, centred=True
    )
    torch.testing.assert_close(returned, picture, rtol=0, atol=1e-4)
