"""One VAE, several ways to the same result: whole and streamed, stopped and continued, laid out."""

from dataclasses import replace

import pytest
import torch

from swift_core.vae import convolve
from swift_core.vae.autoencoder import FP32_ISLANDS, WanVAE
from swift_core.vae.causal import TailCache
from swift_core.vae.config import WAN21_VAE, WAN22_VAE
from swift_core.vae.layout import prepare
from tests.weights import fill_

FORMS = {
    "2.2": replace(WAN22_VAE, encoder_dim=8, decoder_dim=12),
    "2.1": replace(WAN21_VAE, encoder_dim=8, decoder_dim=8),
    "time steps alone": replace(
        WAN22_VAE,
        encoder_dim=12,
        decoder_dim=16,
        dim_mult=(1, 1, 1),
        temporal_downsample=(True, True),
        spatial_downsample=(False, False),
        patch=8,
    ),
}
WIDE = {name: replace(form, encoder_dim=24, decoder_dim=24) for name, form in FORMS.items()}
CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(params=FORMS)
def vae(request):
    return fill_(WanVAE(FORMS[request.param])).eval().requires_grad_(False)


@pytest.fixture(params=WIDE)
def wide_vae(request):
    """Wide enough for rounding to average out: at width 8 it costs 2.5 %, in diffusers too."""
    return fill_(WanVAE(WIDE[request.param])).eval().requires_grad_(False)


def clip(pixel_frames, *, batch=1):
    draw = torch.Generator().manual_seed(4)
    return torch.rand(batch, 3, pixel_frames, 32, 48, generator=draw) * 2 - 1


def chunks_of(pixels):
    return [pixels[:, :, :1], *pixels[:, :, 1:].split(4, dim=2)]


def test_streams_are_the_whole(vae):
    pixels = clip(9)
    latent = vae.encode(pixels)
    assert torch.equal(torch.cat(list(vae.encode_stream(chunks_of(pixels))), dim=2), latent)
    decoded = list(vae.decode_stream(latent))
    assert [chunk.shape[2] for chunk in decoded] == [1, 4, 4]
    assert torch.equal(torch.cat(decoded, dim=2), vae.decode(latent))


def test_a_prefix_is_worked_out_alone(vae):
    """Causality: what comes later changes nothing, bit for bit."""
    pixels = clip(13)
    latent = vae.encode(pixels)
    assert torch.equal(vae.encode(pixels[:, :, :5]), latent[:, :, :2])
    assert torch.equal(vae.decode(latent[:, :, :2]), vae.decode(latent)[:, :, :5])


def test_a_stream_takes_chunks_as_they_come(vae):
    taken = []

    def camera():
        for chunk in chunks_of(clip(9)):
            taken.append(chunk.shape[2])
            yield chunk

    stream = vae.encode_stream(camera())
    assert taken == []
    next(stream)
    assert taken == [1]
    next(stream)
    assert taken == [1, 4]


def test_a_kept_state_continues_equally(vae):
    """From any chunk, and more than once: a clone is not touched by what follows."""
    pixels = clip(13)
    latent = vae.encode(pixels)
    whole = vae.decode(latent)
    cache = TailCache()
    for index in range(2):
        vae.decode_chunk(latent[:, :, index : index + 1], cache=cache)
    kept = cache.clone()
    vae.decode_chunk(latent[:, :, :1] * 7, cache=cache)
    for index in (2, 3):
        chunk = vae.decode_chunk(latent[:, :, index : index + 1], cache=kept)
        assert torch.equal(chunk, whole[:, :, 4 * index - 3 : 4 * index + 1])

    cache = TailCache()
    first, second, third, _ = chunks_of(pixels)
    vae.encode_chunk(first, cache=cache)
    vae.encode_chunk(second, cache=cache)
    kept = cache.clone()
    vae.encode_chunk(third * 0, cache=cache)
    assert torch.equal(vae.encode_chunk(third, cache=kept), latent[:, :, 2:3])


def test_the_state_matters(vae):
    """Frame by frame without it is another computation: time is not even doubled."""
    latent = torch.randn(1, vae.config.latent_channels, 2, 4, 6)
    alone = vae.decode_chunk(latent[:, :, 1:], cache=TailCache())
    assert alone.shape[2] == 1
    whole = vae.decode(latent)
    assert whole.shape[2] == 5
    assert (whole[:, :, -1:] - alone).abs().max() > 0.05


def test_convolutions_over_time_begin_with_the_second_chunk(vae):
    """The first chunk does not use them at all, whatever their weights."""
    pixels = clip(5)
    latent = vae.encode(pixels)
    decoded = vae.decode(latent)
    for name, parameter in vae.named_parameters():
        if "time_conv" in name:
            parameter.data = parameter.data * 3 + 1
    changed = vae.encode(pixels)
    assert torch.equal(changed[:, :, 0], latent[:, :, 0])
    assert not torch.allclose(changed[:, :, 1], latent[:, :, 1])
    changed = vae.decode(latent)
    assert torch.equal(changed[:, :, 0], decoded[:, :, 0])
    assert not torch.allclose(changed[:, :, 1:], decoded[:, :, 1:])


def test_two_clips_together_are_two_clips_alone(vae):
    pixels = clip(5, batch=2)
    latent = vae.encode(pixels)
    decoded = vae.decode(latent)
    for index in range(2):
        alone = slice(index, index + 1)
        torch.testing.assert_close(latent[alone], vae.encode(pixels[alone]), **CLOSE)
        torch.testing.assert_close(decoded[alone], vae.decode(latent[alone]), **CLOSE)


@pytest.mark.parametrize("small_numel", [0, convolve.SMALL_NUMEL])
def test_layout_of_weights_and_input_changes_nothing(vae, small_numel, monkeypatch):
    monkeypatch.setattr(convolve, "SMALL_NUMEL", small_numel)
    pixels = clip(5)
    latent = vae.encode(pixels)
    decoded = vae.decode(latent)
    names = list(vae.state_dict())
    assert prepare(vae) is vae
    assert list(vae.state_dict()) == names
    weight = vae.decoder.conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    laid_out = pixels.contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(vae.encode(laid_out), latent, **CLOSE)
    laid_out = latent.contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(vae.decode(laid_out), decoded, **CLOSE)


def test_small_sizes_take_another_way_to_the_same_result(vae, monkeypatch):
    pixels = clip(9)
    latent = vae.encode(pixels)
    decoded = vae.decode(latent)
    monkeypatch.setattr(convolve, "SMALL_NUMEL", 0)
    torch.testing.assert_close(vae.encode(pixels), latent, **CLOSE)
    torch.testing.assert_close(vae.decode(latent), decoded, **CLOSE)


def test_cudnn_is_asked_where_torch_keeps_away_from_it(vae, monkeypatch):
    pixels = clip(9)
    latent = vae.encode(pixels)
    decoded = vae.decode(latent)
    asked = []

    def cudnn(features, weight, padding, stride, dilation, groups, **how):
        asked.append(how)
        return torch.nn.functional.conv3d(features, weight, None, stride, padding, dilation, groups)

    monkeypatch.setattr(convolve, "SMALL_NUMEL", 0)
    monkeypatch.setattr(convolve, "_is_kept_from_cudnn", lambda _features: True)
    monkeypatch.setattr(torch, "cudnn_convolution", cudnn)
    torch.testing.assert_close(vae.encode(pixels), latent, **CLOSE)
    torch.testing.assert_close(vae.decode(latent), decoded, **CLOSE)
    assert len(asked) > 20


@pytest.mark.parametrize(
    ("version", "cudnn", "kept"),
    [
        ("2.9.1+cu128", 91002, True),
        ("2.10.0", 91400, True),
        ("2.8.0", 91002, False),
        ("2.11.0+cu130", 91002, False),
        ("2.9.0", 91500, False),
        ("2.9.0", 90700, False),
        ("2.10.0+cpu", None, False),
    ],
)
def test_which_versions_keep_away_from_cudnn(monkeypatch, version, cudnn, kept):
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: cudnn is not None)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
    assert convolve.keeps_from_cudnn.__wrapped__() == kept


def test_16_bits_stay_near_fp32(wide_vae):
    """Rounding to 8 bits of mantissa through some 30 convolutions: 2 % of the length."""
    vae = wide_vae
    pixels = clip(9)
    mean, _ = vae.encode_moments(pixels)
    latent = vae.normalize(mean)
    decoded = vae.decode(latent)
    vae.to(torch.bfloat16)
    short_mean, _ = vae.encode_moments(pixels.bfloat16())
    short_decoded = vae.decode(latent.bfloat16())
    assert short_mean.dtype == short_decoded.dtype == torch.bfloat16
    assert (short_mean.float() - mean).norm() < 2e-2 * mean.norm()
    assert (short_decoded.float() - decoded).norm() < 2e-2 * decoded.norm()


def test_fp32_islands_work_inside_16_bit_models(wide_vae):
    vae = wide_vae
    latent = torch.randn(1, vae.config.latent_channels, 2, 4, 6)
    decoded = vae.decode(latent)
    for name, parameter in vae.named_parameters():
        if not any(island in name for island in FP32_ISLANDS):
            parameter.data = parameter.data.bfloat16()
    mixed = vae.decode(latent.bfloat16())
    assert mixed.dtype == torch.bfloat16
    assert (mixed.float() - decoded).norm() < 2e-2 * decoded.norm()


@pytest.mark.parametrize("most", [1, 2000, 9000])
def test_a_convolution_beyond_what_32_bits_count_goes_in_turns(vae, monkeypatch, most):
    pixels, latent = clip(13), torch.randn(1, vae.config.latent_channels, 3, 4, 6)
    expected = vae.encode(pixels), vae.decode(latent)
    turns = []
    convolved = convolve._in_turns
    monkeypatch.setattr(convolve, "MOST_NUMEL", most)
    monkeypatch.setattr(convolve, "_in_turns", lambda *given: turns.append(1) or convolved(*given))
    assert torch.equal(vae.encode(pixels), expected[0])
    assert torch.equal(vae.decode(latent), expected[1])
    assert turns
