"""What the VAEs refuse, in words, and that gradients pass through them."""

from dataclasses import replace

import pytest
import torch

from swift_core.errors import CheckpointError, GeometryError
from swift_core.vae.autoencoder import WanVAE
from swift_core.vae.causal import CausalConv3d, TailCache
from swift_core.vae.config import WAN21_VAE, WAN22_VAE
from tests.weights import fill_

CONFIG = replace(WAN22_VAE, encoder_dim=8, decoder_dim=8)


@pytest.fixture(scope="module")
def vae():
    return fill_(WanVAE(CONFIG)).eval()


def clip(*shape):
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4, 5, 32, 32), r"the pixels have 4 channels; the VAE encodes 3 \(red, green, blue\)"),
        ((1, 3, 5, 40, 32), "height 40 is not a multiple of 16, .* the nearest is 48"),
        ((1, 3, 5, 32, 24), "width 24 is not a multiple of 16, .* the nearest is 32"),
        ((1, 3, 4, 32, 32), r"4 frames cannot be encoded: the number must be 4n\+1; .* is 5"),
    ],
)
def test_a_clip_that_does_not_fit_is_refused(vae, shape, message):
    with pytest.raises(GeometryError, match=message):
        vae.encode(clip(*shape))
    with pytest.raises(GeometryError, match=message):
        vae.encode_moments(clip(*shape))


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ((2,), "the first chunk of a clip has 1 pixel frame, but 2 came"),
        ((1, 1), "the next chunk of a clip has 4 pixel frames, but 1 came"),
        ((1, 4, 3), "the next chunk of a clip has 4 pixel frames, but 3 came"),
    ],
)
def test_a_chunk_of_another_length_is_refused(vae, frames, message):
    chunks = [clip(1, 3, n, 16, 16) for n in frames]
    with pytest.raises(GeometryError, match=message), torch.no_grad():
        list(vae.encode_stream(chunks))
    cache = TailCache()
    for chunk in chunks[:-1]:
        vae.encode_chunk(chunk, cache=cache)
    with pytest.raises(GeometryError, match=message):
        vae.encode_chunk(chunks[-1], cache=cache)


def test_a_chunk_of_another_size_is_refused(vae):
    stream = vae.encode_stream([clip(1, 3, 1, 16, 32), clip(1, 3, 4, 32, 32)])
    next(stream)
    with pytest.raises(GeometryError, match=r"of 32x32 follows chunks of 32x16: one clip has one"):
        next(stream)


def test_a_chunk_that_does_not_fit_is_refused(vae):
    with pytest.raises(GeometryError, match="height 8 is not a multiple of 16"):
        next(vae.encode_stream([clip(1, 3, 1, 8, 16)]))


def test_a_latent_of_another_vae_is_refused(vae):
    message = "the latent has 16 channels; this VAE decodes 48"
    with pytest.raises(GeometryError, match=message):
        vae.decode(clip(1, 16, 1, 2, 2))
    with pytest.raises(GeometryError, match=message):
        next(vae.decode_stream(clip(1, 16, 1, 2, 2)))


def test_a_latent_without_frames_is_refused(vae):
    with pytest.raises(GeometryError, match="the latent has 0 frames; at least 1 is needed"):
        vae.decode(clip(1, 48, 0, 2, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temporal_downsample": (True,)}, "4 levels has 3 steps .* temporal_downsample names 1"),
        ({"spatial_downsample": (True,)}, "4 levels has 3 steps .* spatial_downsample names 1"),
        (
            {"spatial_downsample": (False, True, True)},
            "step 0 between the levels changes neither time nor space; leave it out",
        ),
        (
            {"spatial_downsample": (True, False, True), "residual": False},
            "can leave a step out only in the form with shortcuts",
        ),
        ({"latent_mean": (0.0,)}, "latent_mean has 1 numbers for 48 channels"),
        ({"latent_std": (1.0, 2.0)}, "latent_std has 2 numbers for 48 channels"),
        (
            {"dim_mult": (1, 2, 4, 8)},
            r"encoder's shortcut cannot average 32 channels, 1 values each, into 64 channels "
            r"evenly; dim_mult is \(1, 2, 4, 8\)",
        ),
        (
            {"dim_mult": (1, 1, 8, 8)},
            r"decoder's shortcut cannot spread 64 channels over 8 channels, 4 values each, "
            r"evenly; dim_mult is \(1, 1, 8, 8\)",
        ),
    ],
)
def test_a_configuration_that_makes_no_vae_is_refused(change, message):
    with pytest.raises(CheckpointError, match=message):
        replace(CONFIG, **change)


def test_published_forms():
    assert (WAN22_VAE.compression.space, WAN22_VAE.compression.time) == (16, 4)
    assert (WAN21_VAE.compression.space, WAN21_VAE.compression.time) == (8, 4)
    assert [level.in_dim for level in WAN21_VAE.decoder_levels] == [384, 192, 192, 96]
    assert [level.dim for level in WAN21_VAE.decoder_levels] == [384, 384, 192, 96]
    assert [level.in_dim for level in WAN22_VAE.decoder_levels] == [1024, 1024, 1024, 512]


def test_a_step_may_change_time_alone():
    """Then the rest is the patch's: no convolution of sides, and no halved size, at that step."""
    config = replace(CONFIG, patch=8, spatial_downsample=(True, False, False))
    assert (config.compression.space, config.compression.time) == (16, 4)
    assert [level.space for level in config.encoder_levels] == [2, 1, 1, 1]
    assert [level.space for level in config.decoder_levels] == [1, 1, 2, 1]
    assert config.encoder_levels[1].factor == 2
    vae = fill_(WanVAE(config)).eval()
    names = [name for name in vae.state_dict() if "resample.1.weight" in name]
    assert names == [
        "encoder.downsamples.0.downsamples.2.resample.1.weight",
        "decoder.upsamples.2.upsamples.3.resample.1.weight",
    ]
    with torch.no_grad():
        latent = vae.encode(clip(1, 3, 5, 32, 48))
        assert latent.shape == (1, 48, 2, 2, 3)
        assert vae.decode(latent).shape == (1, 3, 5, 32, 48)


def test_normalising_is_undone(vae):
    raw_latent = torch.randn(1, 48, 2, 3, 3)
    torch.testing.assert_close(vae.denormalize(vae.normalize(raw_latent)), raw_latent)


def test_pixels_are_clamped_unless_told_otherwise(vae):
    latent = 20 * torch.randn(1, 48, 2, 2, 2)
    with torch.no_grad():
        clamped, free = vae.decode(latent), vae.decode(latent, clamp=False)
    assert free.abs().max() > 1
    assert torch.equal(clamped, free.clamp(-1, 1))


@pytest.mark.parametrize("config", [CONFIG, replace(WAN21_VAE, encoder_dim=8, decoder_dim=8)])
def test_gradients_reach_input_and_every_weight(config):
    vae = fill_(WanVAE(config))
    pixels = (torch.rand(1, 3, 9, 32, 16) * 2 - 1).requires_grad_()
    vae.decode(vae.encode(pixels), clamp=False).square().mean().backward()
    assert pixels.grad.abs().amax(dim=(0, 1, 3, 4)).min() > 0, "every frame"
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_a_state_tells_its_size_and_what_it_knows():
    conv, other = CausalConv3d(2, 3, (3, 1, 1)), CausalConv3d(2, 3, (3, 1, 1))
    cache = TailCache()
    cache.extend(conv, torch.zeros(1, 2, 4, 5, 6))
    assert conv in cache
    assert other not in cache
    assert cache.nbytes == 4 * 2 * 2 * 5 * 6
    assert TailCache().nbytes == 0


def test_a_model_keeps_no_state(vae):
    """Whatever ran before, a call gives the same: an error half-way leaves nothing behind."""
    pixels = torch.rand(1, 3, 5, 16, 16)
    with torch.no_grad():
        latent = vae.encode(pixels)
        before = vae.decode(latent)
        next(vae.decode_stream(latent * 2))
        with pytest.raises(GeometryError):
            list(vae.encode_stream([pixels[:, :, :1], pixels]))
        assert torch.equal(vae.encode(pixels), latent)
        assert torch.equal(vae.decode(latent), before)
