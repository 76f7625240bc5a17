"""What a report says of a finished video: where it jumps, pales or blurs."""

import json
import math

import pytest
import torch
from torch.nn import functional as F

from swift_core.media.fidelity import FidelityMeter

FRAMES, STARTS, TIME = 41, (1, 13, 25, 37), 4


def moving(frames=FRAMES):
    """A texture that goes by at half a pixel a frame; latent frames differ a little on top."""
    draws = torch.Generator().manual_seed(1)
    wide = F.interpolate(torch.rand(1, 3, 32, 64, generator=draws), (128, 256), mode="bicubic")[0]
    wide = 0.2 + 0.6 * wide.clamp(0, 1).permute(1, 2, 0)
    clip = [
        (wide[:, at // 2 :][:, :160] + wide[:, (at + 1) // 2 :][:, :160]) / 2
        for at in range(frames)
    ]
    return torch.stack(clip)


def judge(clip, starts=STARTS, chunks=(1, *(4 for _ in range(10)))):
    meter = FidelityMeter(moving(1)[0], starts, time=TIME)
    for chunk in clip.split(list(chunks)):
        meter.watch(chunk)
    return meter.read()


def of_segment(clip, index):
    ends = (*STARTS[1:], FRAMES)
    return clip[STARTS[index] : ends[index]]


def test_nothing_stands_out_where_nothing_is_wrong():
    found = judge(moving())
    assert found.first_frame_psnr_db == math.inf
    assert found.as_data()["first_frame_psnr_db"] is None
    for segment in found.segments:
        assert segment.join == pytest.approx(1, abs=0.1)
        assert segment.sharpness == pytest.approx(1, abs=0.1)
        assert segment.colour == pytest.approx((0, 0, 0), abs=1.5)


def test_a_segment_that_is_too_bright_jumps_and_the_next_jumps_back():
    clip = moving()
    of_segment(clip, 2).add_(torch.tensor([8, 0, 0]) / 255)
    plain, found = judge(moving()).segments, judge(clip).segments
    more = [a.join - b.join for a, b in zip(found, plain, strict=True)]
    assert more[:2] == [0, 0]
    assert min(more[2:]) > 0.1
    shift = torch.tensor(found[2].colour) - torch.tensor(plain[2].colour)
    assert shift.tolist() == pytest.approx([8, 0, 0], abs=0.01)
    assert [a.colour == b.colour for a, b in zip(found, plain, strict=True)] == [1, 1, 0, 1]


def test_a_segment_that_is_blurred_is_less_sharp():
    clip = moving()
    part = of_segment(clip, 1)
    planes = F.avg_pool2d(part.permute(0, 3, 1, 2), 5, 1, 2, count_include_pad=False)
    part.copy_(planes.permute(0, 2, 3, 1))
    plain, found = judge(moving()).segments, judge(clip).segments
    shares = [a.sharpness / b.sharpness for a, b in zip(found, plain, strict=True)]
    assert shares[1] < 0.85
    assert shares[:1] + shares[2:] == [1, 1, 1]


def test_the_first_join_is_with_the_picture():
    clip = moving()
    clip[1:] += 0.1
    assert judge(clip).segments[0].join > 3
    assert judge(clip).segments[1].join == pytest.approx(1, abs=0.1)


def test_how_frames_come_makes_no_difference():
    clip = moving()
    assert judge(clip) == judge(clip, chunks=(FRAMES,)) == judge(clip, chunks=[1] * FRAMES)


def test_frames_may_be_written_over_when_they_have_been_seen():
    clip = moving()
    meter = FidelityMeter(clip[0].clone(), STARTS, time=TIME)
    kept = torch.empty_like(clip[0])
    for frame in clip:
        kept.copy_(frame)
        meter.watch(kept[None])
    assert meter.read() == judge(clip)


def test_every_latent_frame_may_be_a_join():
    found = judge(moving(), starts=tuple(range(1, FRAMES, TIME)))
    assert [segment.join for segment in found.segments] == pytest.approx([1] * 10, abs=0.1)


def test_a_still_of_one_colour_has_no_numbers_but_its_colour():
    grey = torch.full((FRAMES, 64, 64, 3), 0.5)
    meter = FidelityMeter(grey[0], STARTS, time=TIME)
    meter.watch(grey)
    for segment in meter.read().as_data()["segments"]:
        assert segment == {"join": None, "sharpness": None, "colour": [0, 0, 0]}


def test_a_video_of_no_numbers_is_still_plain_data():
    clip = moving()
    of_segment(clip, 1).fill_(math.nan)
    data = judge(clip).as_data()
    assert data["segments"][1] == {"join": None, "sharpness": None, "colour": [None] * 3}
    assert data["segments"][3]["sharpness"] > 0
    json.dumps(data, allow_nan=False)
