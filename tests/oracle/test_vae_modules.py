"""Parts of the VAEs against diffusers' parts, fp32; tolerance as in test_vae.py."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from swift_core.vae.autoencoder import WanVAE
from swift_core.vae.blocks import add_duplicates, average_down
from swift_core.vae.causal import TailCache
from swift_core.vae.config import WAN21_VAE, WAN22_VAE, Level
from tests.weights import fill_

pytest.importorskip("diffusers")
from diffusers.models.autoencoders import autoencoder_kl_wan as wan

from tests.oracles import oracle_vae

pytestmark = pytest.mark.oracle

CLOSE = {"atol": 1e-5, "rtol": 0}
CONFIG = replace(WAN22_VAE, encoder_dim=8, decoder_dim=12)
CONFIG_21 = replace(WAN21_VAE, encoder_dim=8, decoder_dim=8)


@pytest.fixture(scope="module", params=[CONFIG, CONFIG_21], ids=["2.2", "2.1"])
def pair(request):
    vae = fill_(WanVAE(request.param)).eval().requires_grad_(False)
    return vae, oracle_vae(vae)


def features_of(channels, *, frames=1, height=8, width=6):
    draw = torch.Generator().manual_seed(channels + frames)
    return torch.randn(2, channels, frames, height, width, generator=draw)


class OracleState:
    """diffusers' causal state: a list of caches and an index that each call starts at 0."""

    def __init__(self, module):
        convolutions = sum(isinstance(m, wan.WanCausalConv3d) for m in module.modules())
        self.caches = [None] * convolutions

    def __call__(self, module, features, **options):
        return module(features, feat_cache=self.caches, feat_idx=[0], **options)


def compare(ours, theirs, chunks, **first):
    """Run chunk after chunk through both, each with its own state."""
    cache, state = TailCache(), OracleState(theirs)
    for index, features in enumerate(chunks):
        options = dict.fromkeys(first, index == 0)
        expected = state(theirs, features, **options)
        torch.testing.assert_close(ours(features, cache), expected, **CLOSE)


def test_encoder(pair):
    vae, oracle = pair
    channels = vae.config.pixel_channels
    chunks = [features_of(channels, frames=n, height=16, width=8) for n in (1, 4, 4)]
    compare(vae.encoder, oracle.encoder, chunks)


def test_decoder(pair):
    vae, oracle = pair
    channels = vae.config.latent_channels
    chunks = [features_of(channels, height=3, width=2) for _ in range(3)]
    compare(vae.decoder, oracle.decoder, chunks, first_chunk=True)


def test_residual_block_with_another_width(pair):
    vae, oracle = pair
    if vae.config.residual:
        ours = vae.encoder.downsamples[1].downsamples[0]
        theirs = oracle.encoder.down_blocks[1].resnets[0]
    else:
        first = vae.config.residual_blocks + 1
        ours, theirs = vae.encoder.downsamples[first], oracle.encoder.down_blocks[first]
    assert not isinstance(ours.shortcut, nn.Identity)
    channels = ours.residual[0].gamma.shape[0]
    compare(ours, theirs, [features_of(channels, frames=n) for n in (1, 4, 4)])


def test_attention_block(pair):
    vae, oracle = pair
    ours, theirs = vae.encoder.middle[1], oracle.encoder.mid_block.attentions[0]
    features = features_of(ours.proj.weight.shape[0], frames=3)
    torch.testing.assert_close(ours(features), theirs(features), **CLOSE)


@pytest.mark.parametrize("time", [1, 2])
def test_change_of_size(pair, time):
    vae, oracle = pair
    ours = resamplers(vae, time)
    theirs = [m for m in oracle.modules() if isinstance(m, wan.WanResample) and has(m, time)]
    assert len(ours) == len(theirs) > 1
    for module, expected in zip(ours, theirs, strict=True):
        channels = module.resample[1].weight.shape[1]
        up = isinstance(expected.resample[0], wan.WanUpsample)
        frames = (1, 1, 1) if up else (1, 2 * time, 2 * time)
        compare(module, expected, [features_of(channels, frames=n) for n in frames])


def resamplers(vae, time):
    return [m for m in vae.modules() if hasattr(m, "resample") and has(m, time)]


def has(module, time):
    return (getattr(module, "time_conv", None) is not None) == (time == 2)


@pytest.mark.parametrize("widths", [(4, 8), (8, 8), (16, 8), (32, 8)], ids=str)
@pytest.mark.parametrize(("time", "space"), [(1, 1), (1, 2), (2, 2)])
def test_shortcuts(widths, time, space):
    narrow, wide = widths
    level = Level(in_dim=narrow, dim=wide, out_dim=wide, blocks=1, time=time, space=space)
    if not narrow * level.factor % wide:
        oracle = wan.AvgDown3D(narrow, wide, time, space)
        for frames in (1, 4):
            features = features_of(narrow, frames=frames)
            torch.testing.assert_close(average_down(features, level), oracle(features), **CLOSE)
    if not (wide * level.factor % narrow or narrow % wide):
        oracle = wan.DupUp3D(narrow, wide, time, space)
        features = features_of(narrow, frames=3)
        for theirs, coarse in (
            (oracle(features), features),
            (oracle(features[:, :, :1], first_chunk=True), features[:, :, :1]),
        ):
            ours = torch.zeros_like(theirs)
            add_duplicates(ours, coarse, level)
            assert torch.equal(ours, theirs)
