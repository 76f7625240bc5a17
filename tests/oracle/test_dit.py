"""The DiT against diffusers' WanTransformer3DModel, module by module, whole tensors, fp32.

Tolerance 2e-5: the original code and diffusers differ by up to 6e-6 on such sizes (measured), from
the order of fp32 sums alone.
"""

from dataclasses import replace

import pytest
import torch
from einops import rearrange

from swift_core.geometry import Patch
from swift_core.model.config import DiTConfig
from swift_core.model.dit import WanDiT
from swift_core.model.modulation import timestep_sinusoids
from swift_core.model.rope import apply_rope, make_rope
from swift_core.weights.layouts import dit_to_diffusers
from tests.oracles import empty_oracle_dit, oracle_dit
from tests.weights import fill_

pytestmark = pytest.mark.oracle

CLOSE = {"atol": 2e-5, "rtol": 0}
PATCH = Patch(time=1, height=2, width=2)
SMALL = DiTConfig(
    in_channels=48,
    out_channels=48,
    dim=96,
    ffn_dim=160,
    heads=3,
    layers=2,
    text_dim=40,
    text_tokens=24,
    frequency_dim=64,
    patch=PATCH,
    eps=1e-6,
)
FORMS = {
    "ti2v-48": SMALL,
    "reference-96": replace(SMALL, in_channels=96),
    "i2v-36": replace(SMALL, in_channels=36, out_channels=16),
    "head-dim-128": replace(SMALL, dim=256, heads=2, ffn_dim=320, layers=1, text_tokens=512),
}


@pytest.fixture(params=FORMS)
def pair(request):
    """Our DiT and diffusers', with the same weights through our own key table."""
    config = FORMS[request.param]
    dit = fill_(WanDiT(config)).eval().requires_grad_(False)
    return dit, oracle_dit(dit)


def inputs(config, *, batch=1, latent_frames=3, height=6, width=8, text=24):
    draw = torch.Generator().manual_seed(1)
    latent = torch.randn(batch, config.in_channels, latent_frames, height, width, generator=draw)
    text = torch.randn(batch, text, config.text_dim, generator=draw)
    return latent, text


def per_token(timestep, latent):
    return timestep.repeat_interleave(latent.shape[3] * latent.shape[4] // 4, dim=1)


def test_rope_turns_like_diffusers(pair):
    dit, oracle = pair
    latent, _ = inputs(dit.config)
    heads = torch.randn(1, 3 * 3 * 4, dit.config.heads, dit.config.head_dim)
    cos, sin = oracle.rope(latent)
    even, odd = heads.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    turned = (even * cos - odd * sin, even * sin + odd * cos)
    expected = torch.stack(turned, dim=-1).flatten(-2)
    rope = make_rope(dit.config, range(3), height=3, width=4, device=torch.device("cpu"))
    torch.testing.assert_close(apply_rope(heads, rope), expected, **CLOSE)


def test_time_embedding(pair):
    dit, oracle = pair
    timestep = torch.tensor([[0.0, 637.0, 999.5]])
    sinusoids = timestep_sinusoids(timestep, dit.config.frequency_dim)
    time = dit.time_embedding(sinusoids)
    projected = dit.time_projection(time)
    text = torch.zeros(1, dit.config.text_tokens, dit.config.text_dim)
    expected_time, expected_projected, *_ = oracle.condition_embedder(
        timestep.flatten(), text, None, timestep_seq_len=3
    )
    # diffusers makes the sinusoids in fp32: a phase of 1000 is rounded to 6e-5.
    torch.testing.assert_close(time, expected_time, atol=1e-4, rtol=0)
    torch.testing.assert_close(projected, expected_projected, atol=1e-4, rtol=0)


def test_self_attention(pair):
    dit, oracle = pair
    latent, _ = inputs(dit.config)
    tokens = torch.randn(1, 3 * 3 * 4, dit.config.dim)
    rope = make_rope(dit.config, range(3), height=3, width=4, device=torch.device("cpu"))
    ours, _ = dit.blocks[0].self_attn(tokens, rope)
    expected = oracle.blocks[0].attn1(tokens, None, None, oracle.rope(latent))
    torch.testing.assert_close(ours, expected, **CLOSE)


def test_cross_attention(pair):
    dit, oracle = pair
    tokens = torch.randn(1, 20, dit.config.dim)
    text = torch.randn(1, dit.config.text_tokens, dit.config.dim)
    layer = dit.blocks[-1].cross_attn
    expected = oracle.blocks[-1].attn2(tokens, text, None, None)
    torch.testing.assert_close(layer(tokens, layer.read(text)), expected, **CLOSE)


def test_dit_block(pair):
    dit, oracle = pair
    latent, _ = inputs(dit.config)
    tokens = torch.randn(1, 3, 12, dit.config.dim)
    time_modulation = torch.randn(1, 3, 6, dit.config.dim)
    text = torch.randn(1, dit.config.text_tokens, dit.config.dim)
    rope = make_rope(dit.config, range(3), height=3, width=4, device=torch.device("cpu"))
    layer = dit.blocks[0]
    ours, _ = layer(tokens, time_modulation, rope=rope, prompt=layer.cross_attn.read(text))
    expected = oracle.blocks[0](
        tokens.flatten(1, 2),
        text,
        time_modulation.repeat_interleave(12, dim=1),
        oracle.rope(latent),
    )
    torch.testing.assert_close(ours.flatten(1, 2), expected, **CLOSE)


@pytest.mark.parametrize("levels", ["one", "first frame clean", "one per frame"])
def test_dit(pair, levels):
    dit, oracle = pair
    latent, text = inputs(dit.config, text=dit.config.text_tokens)
    timestep = {
        "one": torch.full((1, 3), 637.0),
        "first frame clean": torch.tensor([[0.0, 637.0, 637.0]]),
        "one per frame": torch.tensor([[12.5, 833.3, 999.0]]),
    }[levels]
    ours = dit(latent, timestep, dit.read_prompt(text), positions=range(3))
    expected = oracle(latent, per_token(timestep, latent), text, return_dict=False)[0]
    torch.testing.assert_close(ours, expected, **CLOSE)
    if levels == "one":
        expected = oracle(latent, timestep[:, 0], text, return_dict=False)[0]
        torch.testing.assert_close(ours, expected, **CLOSE)


def test_short_text_is_padded_with_zeros_that_are_attended(pair):
    dit, oracle = pair
    latent, text = inputs(dit.config, text=5)
    timestep = torch.full((1, 3), 500.0)
    ours = dit(latent, timestep, dit.read_prompt(text), positions=range(3))
    padded = torch.zeros(1, dit.config.text_tokens, dit.config.text_dim)
    padded[:, :5] = text
    expected = oracle(latent, timestep[:, 0], padded, return_dict=False)[0]
    unpadded = oracle(latent, timestep[:, 0], text, return_dict=False)[0]
    torch.testing.assert_close(ours, expected, **CLOSE)
    assert (ours - unpadded).abs().max() > 10 * CLOSE["atol"]


def test_bf16_stays_near_fp32(pair):
    dit, _ = pair
    latent, text = inputs(dit.config)
    timestep = torch.tensor([[0.0, 637.0, 637.0]])
    exact = dit(latent, timestep, dit.read_prompt(text), positions=range(3))
    from swift_core.model.dit import FP32_ISLANDS

    for name, parameter in dit.named_parameters():
        if not any(island in name for island in FP32_ISLANDS):
            parameter.data = parameter.data.bfloat16()
    rough = dit(latent.bfloat16(), timestep, dit.read_prompt(text.bfloat16()), positions=range(3))
    assert rough.dtype == torch.float32
    assert (rough - exact).norm() / exact.norm() < 2e-2


def test_true_channel_counts_and_sizes():
    """The published forms have the published numbers of parameters (numbers.md, counted)."""
    from swift_core.model.config import WAN22_I2V_A14B, WAN22_REFERENCE_5B, WAN22_TI2V_5B

    def count(config):
        with torch.device("meta"):
            dit = WanDiT(config)
        return sum(p.numel() for p in dit.parameters()), len(dit.state_dict())

    parameters, tensors = count(WAN22_TI2V_5B)
    assert (round(parameters / 1e9, 4), tensors) == (4.9998, 825)
    assert round(count(WAN22_REFERENCE_5B)[0] / 1e9, 4) == 5.0004
    assert round(count(WAN22_I2V_A14B)[0] / 1e9, 3) == 14.289
    with torch.device("meta"):
        oracle = empty_oracle_dit(WAN22_TI2V_5B)
        ours = WanDiT(WAN22_TI2V_5B)
    names = dit_to_diffusers(ours.state_dict())
    theirs = {name: tensor.shape for name, tensor in oracle.state_dict().items()}
    assert {names[k]: v.shape for k, v in ours.state_dict().items()} == theirs


def test_rearrange_is_the_strided_convolution(pair):
    dit, _ = pair
    latent, _ = inputs(dit.config)
    expected = rearrange(dit.patch_embedding(latent), "b d t h w -> b t (h w) d")
    torch.testing.assert_close(dit._patchify(latent), expected, **CLOSE)
