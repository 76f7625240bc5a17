"""The count of a VAE's arithmetic, against torch's counter and the measured full-size figures."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from swift_core.errors import GeometryError
from swift_core.geometry import PixelShape
from swift_core.vae.autoencoder import WanVAE
from swift_core.vae.config import WAN21_VAE, WAN22_VAE
from swift_core.vae.work import vae_work

FORMS = {
    "2.2": replace(WAN22_VAE, encoder_dim=8, decoder_dim=12),
    "2.1": replace(WAN21_VAE, encoder_dim=8, decoder_dim=8),
    "tiny": replace(
        WAN22_VAE,
        encoder_dim=8,
        decoder_dim=8,
        dim_mult=(1, 2, 2),
        residual_blocks=1,
        temporal_downsample=(True, True),
    ),
    "time steps alone": replace(
        WAN22_VAE,
        encoder_dim=8,
        decoder_dim=8,
        dim_mult=(1, 1, 1),
        temporal_downsample=(True, True),
        spatial_downsample=(False, False),
        patch=8,
    ),
}


def counted(function, tensor):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function(tensor)
    return counter.get_total_flops()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pixel_frames", [1, 9])
def test_the_count_is_torchs(form, pixel_frames):
    config = FORMS[form]
    size = PixelShape(pixel_frames=pixel_frames, height=48, width=32)
    latent = size.latent(config.compression, channels=config.latent_channels)
    with torch.device("meta"):
        vae = WanVAE(config)
        pixels = torch.empty(1, 3, pixel_frames, 48, 32)
        latents = torch.empty(1, latent.channels, latent.latent_frames, latent.height, latent.width)
    work = vae_work(config, size)
    assert work.encode_flops == counted(vae.encode, pixels)
    assert work.decode_flops == counted(vae.decode, latents)


@pytest.mark.parametrize(
    ("config", "size", "decode", "encode"),
    [
        (WAN22_VAE, PixelShape(pixel_frames=81, height=1408, width=2560), 5403, 1034),
        (WAN21_VAE, PixelShape(pixel_frames=81, height=352, width=640), 155, 92),
    ],
)
def test_full_size(config, size, decode, encode):
    work = vae_work(config, size)
    assert work.decode_flops / 1e12 == pytest.approx(decode, rel=0.005)
    assert work.encode_flops / 1e12 == pytest.approx(encode, rel=0.005)


def test_a_size_that_does_not_fit_is_refused():
    with pytest.raises(GeometryError, match="4 frames cannot be encoded"):
        vae_work(WAN22_VAE, PixelShape(pixel_frames=4, height=32, width=32))
