"""Bands change nothing: bit for bit, whatever the size, the depth and the number of bands."""

import copy
from functools import partial

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from swift_core.errors import GeometryError
from swift_core.live_bytes import LiveBytes
from swift_core.vae.bands import Banding
from swift_core.vae.causal import TailCache
from tests.models import small_vae

WIDE = {"encoder_dim": 32, "decoder_dim": 32}
"""As in the published VAEs, widths are multiples of 32. With others the vector unit has a remainder
at the end of a tensor, which it rounds by another rule: bands then differ in the last bit."""

FORMS = {
    "wan2.2": small_vae(**WIDE),
    "wan2.2, four levels": small_vae(
        **WIDE, dim_mult=(1, 2, 4, 4), temporal_downsample=(False, True, True), patch=1
    ),
    "wan2.1": small_vae(**WIDE, residual=False, dim_mult=(1, 2, 4), patch=1, residual_blocks=2),
    "time alone": small_vae(**WIDE, dim_mult=(1, 1, 1), patch=4, spatial_downsample=(False, False)),
}

SIZES = {"height": st.integers(1, 7), "width": st.integers(2, 3)}
BANDINGS = st.builds(
    Banding, levels=st.integers(1, 5), bands=st.integers(2, 12), parks=st.booleans()
) | st.builds(Banding, levels=st.integers(1, 5), bands=st.just(1), parks=st.just(True))

SHORT_BOUND = 1e-2
"""How far bands may be from whole frames in bf16, where libraries choose kernels by size, so that
sums may be in another order: a share of the length; rounding itself moves it by up to 2 %
(tests/twin/test_vae.py)."""


def largest_difference(made, expected):
    assert made.shape == expected.shape
    return (made - expected).abs().max().item()


@settings(deadline=None, max_examples=12)
@given(form=st.sampled_from(sorted(FORMS)), frames=st.integers(1, 4), **SIZES, banding=BANDINGS)
@example(form="wan2.2", frames=4, height=7, width=3, banding=Banding(levels=3, bands=2))
@example(form="wan2.1", frames=3, height=9, width=2, banding=Banding(levels=2, bands=50))
def test_decoding_in_bands_is_decoding(form, frames, height, width, banding):
    vae = FORMS[form]
    torch.manual_seed(frames * height + width)
    latent = torch.randn(1, 8, frames, height, width)
    made = vae.decode(latent, clamp=False, banding=banding)
    assert largest_difference(made, vae.decode(latent, clamp=False)) == 0


@settings(deadline=None, max_examples=12)
@given(form=st.sampled_from(sorted(FORMS)), frames=st.integers(1, 3), **SIZES, banding=BANDINGS)
@example(form="wan2.2", frames=3, height=7, width=3, banding=Banding(levels=2, bands=3))
@example(form="wan2.1", frames=3, height=9, width=2, banding=Banding(levels=3, bands=50))
def test_encoding_in_bands_is_encoding(form, frames, height, width, banding):
    vae = FORMS[form]
    space = vae.config.compression.space
    torch.manual_seed(frames * height + width)
    pixels = torch.rand(1, 3, 4 * frames - 3, space * height, space * width) * 2 - 1
    made = vae.encode(pixels, banding=banding)
    assert largest_difference(made, vae.encode(pixels)) == 0


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
            ],
        ),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_bands_in_16_bits(form, device):
    vae = copy.deepcopy(FORMS[form]).to(device, torch.bfloat16)
    draws, space = torch.Generator().manual_seed(0), vae.config.compression.space
    latent = torch.randn((1, 8, 3, 8, 3), generator=draws)
    pixels = torch.rand((1, 3, 9, 8 * space, 3 * space), generator=draws) * 2 - 1
    for banding in (Banding(levels=2, bands=3), Banding(levels=3, bands=2, parks=True)):
        for work, start in ((partial(vae.decode, clamp=False), latent), (vae.encode, pixels)):
            whole = work(start.to(device, torch.bfloat16))
            made = work(start.to(device, torch.bfloat16), banding=banding)
            difference = (made.float() - whole.float()).norm()
            assert difference <= SHORT_BOUND * whole.float().norm()


def test_the_comparison_would_see_a_halo_that_is_too_small(monkeypatch):
    """With a reach of nothing, the seams of the bands show."""
    vae = FORMS["wan2.2"]
    latent = torch.randn(1, 8, 3, 8, 4, generator=torch.Generator().manual_seed(0))
    whole = vae.decode(latent, clamp=False)
    monkeypatch.setattr("swift_core.vae.causal.CausalConv3d.rows_read", lambda _, rows: rows)
    made = vae.decode(latent, clamp=False, banding=Banding(levels=2, bands=2))
    assert largest_difference(made, whole) > 1e-3


def test_blended_tiles_would_be_seen():
    """What everybody else does: overlapping tiles, faded into each other."""
    vae = FORMS["wan2.2"]
    latent = torch.randn(1, 8, 3, 8, 4, generator=torch.Generator().manual_seed(0))
    whole = vae.decode(latent, clamp=False)
    upper, lower = (
        vae.decode(latent[:, :, :, :5], clamp=False),
        vae.decode(latent[:, :, :, 3:], clamp=False),
    )
    fade = torch.linspace(1, 0, 16)[:, None]
    middle = upper[:, :, :, 24:] * fade + lower[:, :, :, :16] * (1 - fade)
    tiled = torch.cat((upper[:, :, :, :24], middle, lower[:, :, :, 16:]), dim=3)
    assert largest_difference(tiled, whole) > 1e-3


def peak_beyond_state(banding, *, frames):
    """Decode and give the most that was alive, less the causal state at the end."""
    vae, cache = FORMS["wan2.2"], TailCache()
    latent = torch.randn(1, 8, 1, 48, 6)

    with LiveBytes() as alive:
        for _ in range(frames):
            vae.decode_chunk(latent, cache=cache, banding=banding)
    return alive.peak - cache.nbytes


def test_more_bands_take_less_memory_and_more_frames_take_no_more():
    """The causal state is there in any case; what a band computes is a share of the frame."""
    peaks = [peak_beyond_state(Banding(levels=2, bands=b), frames=3) for b in (1, 2, 3, 4)]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[-1] < 0.55 * peaks[0]
    assert peak_beyond_state(Banding(levels=2, bands=4), frames=6) == peaks[-1]


def test_a_state_can_be_kept_and_continued():
    vae, banding = FORMS["wan2.1"], Banding(levels=2, bands=3)
    latent = torch.randn(1, 8, 4, 5, 3)
    cache = TailCache()
    for at in range(2):
        vae.decode_chunk(latent[:, :, at : at + 1], cache=cache, banding=banding)
    kept = cache.clone()
    first = vae.decode_chunk(latent[:, :, 2:3], cache=cache, banding=banding)
    again = vae.decode_chunk(latent[:, :, 2:3], cache=kept, banding=banding)
    assert torch.equal(first, again)
    assert cache.nbytes == kept.nbytes > 0


@pytest.mark.parametrize(("levels", "bands"), [(-1, 2), (2, 0)])
def test_what_cannot_be_cut(levels, bands):
    with pytest.raises(GeometryError, match=f"{levels} levels in {bands} bands cannot be"):
        Banding(levels=levels, bands=bands)
