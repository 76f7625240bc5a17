"""The computed VAE beside the best linear codec, and steps that see through means."""

import copy
from dataclasses import replace

import pytest
import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from swift_core.geometry import PixelShape
from tests.models import SMALL_VAE
from tests.pictures import write_picture_cache
from training.centering import Centering
from training.chance import generator
from training.closed_form import make_vae
from training.components import Fit
from training.data import NATURAL, ClipMaker
from training.sizes import Diet
from training.vae import DecoderTask, to_model

CODEC = replace(
    SMALL_VAE,
    latent_channels=16,
    encoder_dim=32,
    decoder_dim=40,
    dim_mult=(1, 1, 1),
    patch=8,
    spatial_downsample=(False, False),
    latent_mean=(0.0,) * 16,
    latent_std=(1.0,) * 16,
)
SHAPE = PixelShape(pixel_frames=9, height=64, width=64)


@pytest.fixture(scope="module")
def maker(tmp_path_factory):
    cache = write_picture_cache(tmp_path_factory.mktemp("pictures"), side=128)
    return ClipMaker(seed=3, device=torch.device("cpu"), textures=4, cache=cache)


@pytest.fixture(scope="module")
def clips(maker):
    made = [maker.make(i, count=4, shape=SHAPE, style=NATURAL).pixels for i in range(12)]
    return [to_model(pixels) for pixels in made]


@pytest.fixture(scope="module")
def vae(clips):
    return make_vae(CODEC, clips, seed=0).requires_grad_(False)


def best_codec_error(blocks):
    """What the principal components of whole blocks leave out: no linear block codec does less."""
    flat = (blocks - blocks.mean(0)).double()
    values = torch.linalg.eigvalsh(flat.T @ flat / len(flat))
    return float(values[: -CODEC.latent_channels].sum() / flat.shape[1])


def test_the_first_state_is_about_the_best_linear_codec(vae, clips):
    """Latents see their own block alone, but the way back sees the neighbours: it may be better."""
    pixels = torch.cat(clips)
    made = vae.decode(vae.encode(pixels), clamp=False)
    patches = rearrange(pixels, "b c p (h q) (w r) -> b p h w (c r q)", q=8, r=8)
    frames = rearrange(patches[:, 0], "b h w c -> (b h w) c")
    quads = rearrange(patches[:, 1:], "b (t p) h w c -> (b t h w) (p c)", p=4)
    first, later = (made - pixels)[:, :, :1], (made - pixels)[:, :, 1:]
    # Frame 0 shares its components with the quads, so its own best ones are not all there.
    assert first.square().mean() < 1.5 * best_codec_error(frames)
    assert later.square().mean() < 1.15 * best_codec_error(quads)


def test_latents_are_of_deviation_1_and_the_posterior_is_narrow(vae, clips):
    mean, log_var = vae.encode_moments(torch.cat(clips))
    assert mean.std((0, 2, 3, 4)).sub(1).abs().max() < 0.2
    assert log_var.exp().sqrt().max() < 0.6
    assert log_var.std((0, 2, 3, 4)).max() == 0


def test_a_still_clip_stays_near_its_first_frame(vae, clips):
    """So a DiT that copies latent frame 0 shows the picture."""
    picture = torch.cat(clips)[:, :, :1]
    latent = vae.encode(picture.expand(-1, -1, 9, -1, -1))
    still = vae.decode(latent[:, :, :1].expand(-1, -1, 3, -1, -1))
    error = (still[:, :, 1:] - picture).square().mean()
    assert error < 0.1 * (picture - picture.mean()).square().mean()
    assert torch.equal(latent[:, :, 1], latent[:, :, 2])


def test_branches_end_in_zeros(vae):
    """Whatever stands inside them: the codec is all that is computed."""
    pixels = torch.rand((1, 3, 9, 32, 32), generator=generator(0)) * 2 - 1
    twin = copy.deepcopy(vae)
    for name, parameter in twin.named_parameters():
        if "residual.2." in name or "to_qkv" in name:
            parameter.data = 3 * parameter.data + 0.1
    assert torch.equal(twin.encode(pixels), vae.encode(pixels))
    latent = vae.encode(pixels)
    assert torch.equal(twin.decode(latent), vae.decode(latent))


def test_least_squares_over_batches_is_that_of_all():
    draw = generator(5)
    given, truth = torch.randn((60, 7), generator=draw), torch.randn((8, 3), generator=draw)
    wanted = given @ truth[:-1] + truth[-1]
    fit = Fit()
    for rows in zip(given.split(13), wanted.split(13), strict=True):
        fit.add(*rows)
    torch.testing.assert_close(fit.solve(), truth, atol=1e-4, rtol=0)


def test_centred_steps_are_those_of_a_layer_whose_inputs_have_no_mean():
    draw = generator(6)
    inputs = torch.randn((2, 5, 3, 4, 4), generator=draw) * 0.1 + 4
    wanted = torch.randn((2, 6, 3, 4, 4), generator=draw)
    conv = nn.Conv3d(5, 6, 1)
    mean = inputs.mean((0, 2, 3, 4))
    weight = conv.weight.detach().clone().requires_grad_()
    offset = (conv.bias + conv.weight.flatten(1) @ mean).detach().requires_grad_()
    centering = Centering(nn.Sequential(conv))
    for _ in range(3):
        (conv(inputs) - wanted).square().mean().backward()
        with centering.step():
            for parameter in conv.parameters():
                parameter.data -= 0.1 * parameter.grad
                parameter.grad = None
        centred = inputs - mean[:, None, None, None]
        (F.conv3d(centred, weight, offset) - wanted).square().mean().backward()
        for parameter in (weight, offset):
            parameter.data -= 0.1 * parameter.grad
            parameter.grad = None
        torch.testing.assert_close(conv.weight, weight, atol=1e-5, rtol=0)
        expected = F.conv3d(centred, weight, offset)
        torch.testing.assert_close(conv(inputs), expected, atol=1e-5, rtol=0)


def test_the_decoder_goes_on_alone(vae, maker):
    task = DecoderTask(copy.deepcopy(vae), maker, Diet(shapes=(SHAPE,), batch=2))
    task.losses(0)["loss"].backward()
    changed = {name.split(".")[0] for name, p in task.vae.named_parameters() if p.grad is not None}
    assert changed == {"conv2", "decoder"}
