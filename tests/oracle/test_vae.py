"""The VAEs against diffusers' AutoencoderKLWan, whole tensors, fp32, with the same weights.

Tolerance 1e-5: the original code and diffusers agree exactly (measured); we sum convolutions and
norms in another order, which costs up to 5e-6 at values around 2.
"""

from dataclasses import replace
from functools import cache

import pytest
import torch

from swift_core.vae import convolve
from swift_core.vae.autoencoder import WanVAE
from swift_core.vae.config import WAN21_VAE, WAN22_VAE
from swift_core.weights.layouts import vae_to_diffusers
from tests.weights import fill_

pytest.importorskip("diffusers")
from tests.oracles import empty_oracle_vae, oracle_vae

pytestmark = pytest.mark.oracle

CLOSE = {"atol": 1e-5, "rtol": 0}
FORM_22 = replace(WAN22_VAE, encoder_dim=8, decoder_dim=12)
FORM_21 = replace(WAN21_VAE, encoder_dim=8, decoder_dim=8)
FORM_TINY = replace(
    FORM_22, dim_mult=(1, 2, 2), temporal_downsample=(True, True), residual_blocks=1
)
CASES = [
    pytest.param(FORM_22, 1, id="2.2-1"),
    pytest.param(FORM_22, 5, id="2.2-5"),
    pytest.param(FORM_22, 9, id="2.2-9"),
    pytest.param(FORM_22, 17, id="2.2-17"),
    pytest.param(FORM_21, 9, id="2.1-9"),
    pytest.param(FORM_TINY, 9, id="tiny-9"),
]


@cache
def pair_of(config):
    vae = fill_(WanVAE(config)).eval().requires_grad_(False)
    return vae, oracle_vae(vae)


def clip(pixel_frames, *, height=32, width=48, batch=1):
    draw = torch.Generator().manual_seed(2)
    return torch.rand(batch, 3, pixel_frames, height, width, generator=draw) * 2 - 1


def raw_latent_of(config, pixel_frames, *, height=32, width=48):
    draw = torch.Generator().manual_seed(3)
    space = config.compression.space
    shape = (1, config.latent_channels, (pixel_frames + 3) // 4, height // space, width // space)
    return torch.randn(shape, generator=draw)


@pytest.mark.parametrize(("config", "pixel_frames"), CASES)
def test_encode(config, pixel_frames):
    vae, oracle = pair_of(config)
    pixels = clip(pixel_frames)
    mean, log_var = vae.encode_moments(pixels)
    expected = oracle.encode(pixels).latent_dist
    torch.testing.assert_close(mean, expected.mean, **CLOSE)
    torch.testing.assert_close(log_var.clamp(-30, 20), expected.logvar, **CLOSE)


@pytest.mark.parametrize(("config", "pixel_frames"), CASES)
def test_decode(config, pixel_frames):
    vae, oracle = pair_of(config)
    raw_latent = raw_latent_of(config, pixel_frames)
    expected = oracle.decode(raw_latent).sample
    decoded = vae.decode(vae.normalize(raw_latent))
    assert (expected.abs() == 1).float().mean() < 0.2, "clipped values would hide differences"
    torch.testing.assert_close(decoded, expected, **CLOSE)


@pytest.mark.parametrize("config", [FORM_22, FORM_21], ids=["2.2", "2.1"])
def test_the_path_of_large_sizes(config, monkeypatch):
    """``CausalConv3d`` asks for oneDNN at small sizes only."""
    monkeypatch.setattr(convolve, "SMALL_NUMEL", 0)
    vae, oracle = pair_of(config)
    pixels, raw_latent = clip(9), raw_latent_of(config, 9)
    expected = oracle.encode(pixels).latent_dist.mean
    torch.testing.assert_close(vae.encode_moments(pixels)[0], expected, **CLOSE)
    expected = oracle.decode(raw_latent).sample
    torch.testing.assert_close(vae.decode(vae.normalize(raw_latent)), expected, **CLOSE)


def test_a_batch_is_encoded_clip_by_clip():
    vae, oracle = pair_of(FORM_22)
    pixels = clip(5, batch=2)
    expected = oracle.encode(pixels).latent_dist.mean
    torch.testing.assert_close(vae.encode_moments(pixels)[0], expected, **CLOSE)


@pytest.mark.parametrize("config", [FORM_22, FORM_21], ids=["2.2", "2.1"])
def test_encode_normalises_what_diffusers_leaves_raw(config):
    vae, oracle = pair_of(config)
    pixels = clip(5)
    raw = oracle.encode(pixels).latent_dist.mode()
    mean = torch.tensor(config.latent_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(config.latent_std).view(1, -1, 1, 1, 1)
    torch.testing.assert_close(vae.encode(pixels), (raw - mean) / std, **CLOSE)


def test_statistics_of_wan21_are_those_diffusers_publishes():
    import diffusers

    published = diffusers.AutoencoderKLWan.__init__.__wrapped__.__defaults__
    assert list(WAN21_VAE.latent_mean) in published
    assert list(WAN21_VAE.latent_std) in published


@pytest.mark.parametrize("config", [FORM_22, FORM_21], ids=["2.2", "2.1"])
def test_gradients(config):
    """Training our classes moves every weight as training diffusers' would."""
    vae = fill_(WanVAE(config))
    oracle = oracle_vae(vae).requires_grad_(True)
    pixels = clip(9, height=16, width=32)
    mean, log_var = vae.encode_moments(pixels)
    rebuilt = vae.decode(vae.normalize(mean))
    ((rebuilt - pixels).square().mean() + 0.1 * log_var.mean()).backward()
    posterior = oracle.encode(pixels).latent_dist
    rebuilt = oracle.decode(posterior.mean).sample
    ((rebuilt - pixels).square().mean() + 0.1 * posterior.logvar.mean()).backward()
    expected = dict(oracle.named_parameters())
    names = vae_to_diffusers(vae.state_dict(), config)
    for name, parameter in vae.named_parameters():
        grad = expected[names[name]].grad
        assert grad.norm() > 0, name
        # Sums over thousands of pixels: compared as a whole, relative to their length.
        assert (parameter.grad - grad).norm() < 1e-4 * grad.norm() + 1e-7, name


@pytest.mark.parametrize(
    ("config", "millions", "tensors"), [(WAN22_VAE, 704.7, 196), (WAN21_VAE, 126.9, 194)]
)
def test_published_sizes(config, millions, tensors):
    """Names and shapes of every parameter, at full width, without memory."""
    with torch.device("meta"):
        vae = WanVAE(config)
        oracle = empty_oracle_vae(config)
    assert len(vae.state_dict()) == tensors
    assert sum(p.numel() for p in vae.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    names = vae_to_diffusers(vae.state_dict(), config)
    shapes = {names[n]: p.shape for n, p in vae.state_dict().items()}
    assert shapes == {n: p.shape for n, p in oracle.state_dict().items()}


@pytest.mark.slow
def test_true_width_wan21():
    vae, oracle = pair_of.__wrapped__(WAN21_VAE)
    pixels = clip(5, height=16, width=16)
    mean, _ = vae.encode_moments(pixels)
    torch.testing.assert_close(mean, oracle.encode(pixels).latent_dist.mean, **CLOSE)
    torch.testing.assert_close(vae.decode(vae.normalize(mean)), oracle.decode(mean).sample, **CLOSE)
