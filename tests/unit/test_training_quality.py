"""The measures of likeness beside other programs' and beside themselves, and what joins leave."""

import math

import numpy as np
import pytest
import torch

from swift_core.segments.plan import SegmentSettings, plan_segments
from training.chance import generator
from training.continuity import by_segment, change, seam_energy, sharpness
from training.measure import psnr
from training.quality import YIQ, gmsd, haarpsi, ssim
from training.textures import draw_textures

ndimage = pytest.importorskip("scipy.ndimage")
signal = pytest.importorskip("scipy.signal")


@pytest.fixture(scope="module")
def true():
    return torch.stack(draw_textures(3, side=96, seed=4)).double()[:, :72]


@pytest.fixture(scope="module", params=[0.02, 0.1])
def made(request, true):
    noise = torch.randn(true.shape, generator=generator(1), dtype=true.dtype)
    return (true + request.param * noise).clamp(0, 1)


def planes(picture):
    return np.moveaxis(picture.numpy() @ np.array(YIQ).T, 2, 0)


def halved(plane):
    return plane.reshape(plane.shape[0] // 2, 2, plane.shape[1] // 2, 2).mean((1, 3))


def test_ssim_is_that_of_scikit_image(made, true):
    metrics = pytest.importorskip("skimage.metrics")
    for one, two, found in zip(made, true, ssim(made, true), strict=True):
        expected = metrics.structural_similarity(
            planes(one)[0],
            planes(two)[0],
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
        )
        assert float(found) == pytest.approx(expected, abs=1e-9)


def test_gmsd_is_that_of_its_paper(made, true):
    """Written again with scipy, on levels up to 255 as in the paper."""

    def edges(picture):
        bright = halved(planes(picture)[0]) * 255
        slopes = [ndimage.prewitt(bright, axis, mode="constant") / 3 for axis in (0, 1)]
        return np.hypot(*slopes)

    for one, two, found in zip(made, true, gmsd(made, true), strict=True):
        a, b = edges(one), edges(two)
        expected = ((2 * a * b + 170) / (a**2 + b**2 + 170)).std()
        assert float(found) == pytest.approx(expected, abs=1e-9)


def haar(plane, scale, *, standing):
    side = 2**scale
    kernel = np.ones((side, side)) / side
    kernel[side // 2 :] = -1 / side
    whole = signal.convolve2d(plane, kernel.T if standing else kernel)
    begin = side // 2
    return np.abs(whole[begin : begin + plane.shape[0], begin : begin + plane.shape[1]])


def alike(a, b):
    return (2 * a * b + 30) / (a**2 + b**2 + 30)


def test_haarpsi_is_that_of_its_paper(made, true):
    """Written again with scipy, on levels up to 255 as in the paper: C = 30, alpha = 4.2."""
    for one, two, found in zip(made, true, haarpsi(made, true), strict=True):
        a, b = ([halved(plane) * 255 for plane in planes(each)] for each in (one, two))
        total = weights = 0
        means = []
        for standing in (False, True):
            pairs = [[haar(p[0], s, standing=standing) for p in (a, b)] for s in (1, 2, 3)]
            weight = np.maximum(*pairs[2])
            local = (alike(*pairs[0]) + alike(*pairs[1])) / 2
            total, weights = total + weight / (1 + np.exp(-4.2 * local)), weights + weight
            means.append(weight)
        box = np.ones((2, 2)) / 4
        colours = [[np.abs(signal.convolve2d(p[c], box)[1:, 1:]) for p in (a, b)] for c in (1, 2)]
        local = (alike(*colours[0]) + alike(*colours[1])) / 2
        weight = sum(means) / 2
        total, weights = total + weight / (1 + np.exp(-4.2 * local)), weights + weight
        share = total.sum() / weights.sum()
        expected = (math.log(share / (1 - share)) / 4.2) ** 2
        assert float(found) == pytest.approx(expected, abs=1e-6)


def test_equal_pictures_are_alike_and_noise_is_not(true):
    draw = generator(2)
    noise = torch.randn(true.shape, generator=draw, dtype=true.dtype)
    weak, strong = ((true + size * noise).clamp(0, 1) for size in (0.02, 0.1))
    for measure, best in ((ssim, 1.0), (haarpsi, 1.0), (gmsd, 0.0)):
        assert measure(true, true).tolist() == pytest.approx([best] * 3, abs=1e-6)
        off = [(measure(each, true) - best).abs() for each in (weak, strong)]
        assert (off[0] > 1e-4).all()
        assert (off[1] > off[0]).all()


def test_seams_are_found_where_segments_join():
    plan = plan_segments(10, SegmentSettings(segment_length=3))
    draw = generator(3)
    true = torch.rand((37, 8, 8, 3), generator=draw)
    # An error of its own in each latent frame: joins are no worse than other steps.
    own = torch.randn((10, 1, 1, 3), generator=draw).clamp(-1, 1)
    of_frame = [0] + [frame for frame in range(1, 10) for _ in range(4)]
    even = torch.tensor([0.0, 0.1] * 5)[of_frame][:, None, None, None].expand(37, 8, 8, 3)
    assert seam_energy(true + even, true, plan, time=4) == pytest.approx(1, rel=1e-3)
    # One error for each segment: nothing but joins.
    of_segment = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])[of_frame]
    whole = own[of_segment].expand(37, 8, 8, 3)
    small = 0.01 * even
    assert seam_energy(true + whole + small, true, plan, time=4) > 100
    assert math.isnan(
        seam_energy(true, true, plan_segments(10, SegmentSettings(segment_length=9)), time=4)
    )


def test_each_segment_is_judged_by_itself():
    plan = plan_segments(7, SegmentSettings(segment_length=3))
    true = torch.rand((25, 16, 16, 3), generator=generator(4)) / 2
    made = true.clone()
    made[13:] = 0.25 + (true[13:] - 0.25) / 2
    best = true + 0.001
    first, second = by_segment(made, best, true, plan, time=4)
    assert first["sharpness"] == pytest.approx(1, rel=1e-4)
    assert first["gap"] == math.inf
    assert second["sharpness"] == pytest.approx(0.5, rel=1e-4)
    expected = psnr(made[13:], true[13:]) - 60
    assert second["gap"] == pytest.approx(expected, abs=1e-2)
    assert -50 < expected < -30


def test_sharpness_and_change_are_slopes():
    ramp = torch.linspace(0, 1.6, 17)[None, None, :, None].expand(2, 9, 17, 3)
    assert sharpness(ramp) == pytest.approx(0.1, rel=1e-4)
    assert change([3.0]) == 0
    assert change([1.0, 2.0, 3.0, 4.0]) == pytest.approx(3)
    assert change([4.0, 4.0, 4.0]) == pytest.approx(0, abs=1e-12)
