"""Fitting and rounding hold for every size and value."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from swift_core.media.levels import to_levels
from swift_core.media.pictures import fit_picture

sides = st.integers(1, 70)


@given(sides, sides, sides, sides)
def test_any_picture_fits_any_size_and_a_flat_one_stays_flat(have_h, have_w, height, width):
    fitted = fit_picture(torch.full((have_h, have_w, 3), 0.25), height=height, width=width)
    assert fitted.shape == (height, width, 3)
    torch.testing.assert_close(fitted, torch.full_like(fitted, 0.25))


@given(sides, sides, sides, sides)
def test_fitting_commutes_with_mirroring_where_the_cut_is_even(have_h, have_w, height, width):
    torch.manual_seed(0)
    picture = torch.rand(2 * have_h, 2 * have_w, 3)
    cut = min(2 * have_w, max(1, round(2 * have_h * width / height)))
    if cut % 2:
        return
    mirrored = fit_picture(picture.flip(1), height=height, width=width)
    straight = fit_picture(picture, height=height, width=width)
    torch.testing.assert_close(mirrored, straight.flip(1), rtol=0, atol=1e-5)


@given(st.floats(-10, 10, width=32), st.sampled_from([255, 1023, 65535]))
def test_a_level_is_the_nearest_one(value, top):
    level = to_levels(torch.tensor([value]), top=top).item()
    assert 0 <= level <= top
    assert abs(level - min(max(value, 0), 1) * top) <= 0.5 + 1e-2
