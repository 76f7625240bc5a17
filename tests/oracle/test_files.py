"""Files that diffusers itself has written, opened by us: the same model, the same outputs.

Nothing of ours has renamed these weights before they are read.
"""

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from swift_core.precision import FP32
from swift_core.vae.config import WAN21_VAE, WAN22_VAE
from swift_core.weights.build import build_dit, build_vae
from swift_core.weights.detect import look_into
from swift_core.weights.layouts import Layout
from swift_core.weights.notes import describe_metadata
from tests.oracle.test_dit import FORMS
from tests.weights import fill_

pytest.importorskip("diffusers")
from tests.oracles import empty_oracle_dit, empty_oracle_vae

pytestmark = pytest.mark.oracle

CONFIG = FORMS["head-dim-128"]


@pytest.fixture(scope="module")
def oracle():
    return fill_(empty_oracle_dit(CONFIG)).eval().requires_grad_(False)


def ours(dit, latent, text):
    timestep = torch.full((1, latent.shape[2]), 637.0)
    return dit(latent, timestep, dit.read_prompt(text), positions=range(latent.shape[2]))


def theirs(oracle, latent, text):
    padded = torch.nn.functional.pad(text, (0, 0, 0, CONFIG.text_tokens - text.shape[1]))
    return oracle(latent, torch.tensor([637.0]), padded, return_dict=False)[0]


@pytest.mark.parametrize("parts", [1, 5])
def test_a_saved_pipeline_folder_of_a_dit(oracle, tmp_path, parts):
    nbytes = sum(value.nbytes for value in oracle.state_dict().values())
    oracle.save_pretrained(tmp_path, max_shard_size=f"{(nbytes // parts + 200_000) // 1000}KB")
    files = sorted(tmp_path.glob("*.safetensors"))
    assert (len(files) > 1) == (parts > 1)
    draw = torch.Generator().manual_seed(1)
    latent = torch.randn((1, CONFIG.in_channels, 3, 6, 8), generator=draw)
    text = torch.randn((1, 9, CONFIG.text_dim), generator=draw)
    expected = theirs(oracle, latent, text)
    for source in (files[-1], tmp_path) if parts > 1 else files:
        checkpoint = look_into(source)
        assert checkpoint.layout is Layout.DIFFUSERS_DIT
        assert checkpoint.header.files == len(files)
        assert checkpoint.config == replace(CONFIG, text_tokens=512)
        built = build_dit(checkpoint, precision=FP32)
        torch.testing.assert_close(ours(built, latent, text), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    "config",
    [
        replace(WAN22_VAE, encoder_dim=8, decoder_dim=12),
        replace(WAN21_VAE, encoder_dim=8, decoder_dim=8),
    ],
    ids=["2.2", "2.1"],
)
def test_a_saved_vae(config, tmp_path):
    oracle = fill_(empty_oracle_vae(config)).eval().requires_grad_(False)
    oracle.save_pretrained(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    # So narrow a VAE is none of the published ones, and must note its latent's statistics.
    weights = load_file(path)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    path.unlink()
    save_file(weights, path, metadata=describe_metadata(config))
    assert look_into(path).layout is Layout.DIFFUSERS_VAE
    vae = build_vae(path, precision=FP32)
    draw = torch.Generator().manual_seed(2)
    clip = torch.rand((1, 3, 9, 32, 48), generator=draw) * 2 - 1
    mean = torch.tensor(config.latent_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(config.latent_std).view(1, -1, 1, 1, 1)
    raw = oracle.encode(clip).latent_dist.mode()
    latent = vae.encode(clip)
    torch.testing.assert_close(latent, (raw - mean) / std, atol=1e-5, rtol=0)
    torch.testing.assert_close(vae.decode(latent), oracle.decode(raw).sample, atol=2e-5, rtol=0)
