"""LoRAs as people have them: the same as adding by hand, or refused in one sentence."""

import json
import logging
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from swift_core.errors import CheckpointError
from swift_core.model.dit import FP32_ISLANDS
from swift_core.model.low_rank import LowRankLinear
from swift_core.model.scaled import ScaledLinear
from swift_core.precision import BF16, FP32, Precision, is_island
from swift_core.weights.build import build_dit, save_checkpoint
from swift_core.weights.detect import detect
from swift_core.weights.headers import read_header
from swift_core.weights.lora import Lora, match_lora, read_lora
from swift_core.weights.lora_merge import apply_loras
from tests.loras import LAYERS, draw, make_factors, merged_by_hand, spelled
from tests.models import small_dit
from tests.sparse import write_sparse

FP16 = Precision(weights=torch.float16, compute=torch.float16)
FP32_ERROR = {"rtol": 1e-6, "atol": 1e-6}
"""Of sums of a few products in fp32, for values of order 1."""

ULP = {torch.bfloat16: 2**-8, torch.float16: 2**-11}
"""The rounding of a format, relative."""


@pytest.fixture
def dit():
    return small_dit()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some_lora.safetensors"


def saved(path, tensors, metadata=None):
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata)
    return read_lora(path)


def apply(dit, *loras, precision=FP32):
    return apply_loras(dit, loras, precision=precision)


def same(module, expected):
    found = module.state_dict()
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value.double(), expected[name].double(), msg=name, **FP32_ERROR)


def diffusers_name(layer):
    return LAYERS[layer]


def underscored(layer):
    return layer.replace(".", "_")


SPELLINGS = {
    "plain": spelled,
    "diffusion-pipe": lambda f: spelled(f, lambda n: f"diffusion_model.{n}"),
    "whole checkpoints": lambda f: spelled(f, lambda n: f"model.diffusion_model.{n}"),
    "model.": lambda f: spelled(f, lambda n: f"model.{n}"),
    "diffsynth": lambda f: spelled(f, lambda n: f"pipe.dit.{n}", leaf=".default.weight"),
    "peft": lambda f: spelled(f, lambda n: f"base_model.model.{n}"),
    "lightx2v": lambda f: spelled(f, lambda n: f"diffusion_model.{n}", "lora_down", "lora_up"),
    "diffusers": lambda f: spelled(f, lambda n: f"transformer.{LAYERS[n]}"),
    "peft of diffusers": lambda f: spelled(f, lambda n: f"base_model.model.{LAYERS[n]}"),
    "musubi": lambda f: spelled(f, lambda n: f"lora_unet_{underscored(n)}", "lora_down", "lora_up"),
    "Wan Fun": lambda f: spelled(
        f, lambda n: f"lora_unet__{underscored(n)}", "lora_down", "lora_up"
    ),
    "lycoris": lambda f: spelled(
        f, lambda n: f"lycoris_{underscored(LAYERS[n])}", "lora_down", "lora_up"
    ),
    "lycoris, Wan names": lambda f: spelled(
        f, lambda n: f"lycoris_{underscored(n)}", "lora_down", "lora_up"
    ),
    "onetrainer": lambda f: spelled(
        f, lambda n: f"lora_transformer_{underscored(LAYERS[n])}", "lora_down", "lora_up"
    ),
    "old diffusers": lambda f: spelled(f, diffusers_name, "lora.down", "lora.up"),
    "bare factors": lambda f: spelled(f, diffusers_name, leaf=""),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_adds_what_adding_by_hand_adds(dit, path, name):
    factors = make_factors(dit)
    before = {key: value.clone() for key, value in dit.state_dict().items()}
    report = apply(dit, Lora(file=saved(path, SPELLINGS[name](factors)), strength=0.7))
    same(dit, merged_by_hand(before, factors, scale=0.7))
    assert report.merged == len(factors)
    assert report.beside == 0
    assert report.matches[0].unmatched == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_is_added_to_sixteen_bits_is_rounded_once(dit, path, dtype):
    """However many LoRAs: each value is the exact sum's nearest, or its neighbour by fp32's error.

    Adding them one after another would round in between, and hit less often. A whole difference of
    each weight is why factors are added here.
    """
    dit = dit.to(dtype)
    first, second = (make_factors(dit, rank=3, seed=seed) for seed in (1, 2))
    before = {key: value.clone() for key, value in dit.state_dict().items()}
    differences = {
        f"{layer}.diff": draw(*before[f"{layer}.weight"].shape, seed=index)
        for index, layer in enumerate(LAYERS)
    }
    files = {"a": spelled(first), "b": {**spelled(second), **differences}}
    loras = [
        Lora(file=saved(path.with_name(f"{name}.safetensors"), tensors), strength=0.5)
        for name, tensors in files.items()
    ]
    report = apply(dit, *loras, precision=Precision(weights=dtype, compute=dtype))
    assert (report.merged, report.beside) == (len(LAYERS), 0)

    def with_second(weights):
        weights = merged_by_hand(weights, second, 0.5)
        for layer in LAYERS:
            weights[f"{layer}.weight"] += 0.5 * differences[f"{layer}.diff"].double()
        return weights

    once = merged_by_hand(before, first, 0.5)
    expected = with_second(once)
    twice = with_second({name: value.to(dtype) for name, value in once.items()})
    missed = missed_twice = 0
    for name, value in dit.state_dict().items():
        assert value.dtype is dtype
        rounded = expected[name].to(dtype)
        torch.testing.assert_close(value, rounded, rtol=2 * ULP[dtype], atol=0)
        missed += int((value != rounded).sum())
        missed_twice += int((twice[name].to(dtype) != rounded).sum())
    assert missed < 0.01 * missed_twice


def packed_layers(dit):
    """Pack the blocks' linear layers, and give the unpacked twin."""
    for name, layer in list(dit.named_modules()):
        if name.startswith("blocks.") and isinstance(layer, nn.Linear):
            scale = layer.weight.abs().amax() / 448
            packed = (layer.weight / scale).to(torch.float8_e4m3fn)
            bias = layer.bias.detach().clone()
            dit.set_submodule(name, ScaledLinear(packed, scale=scale, bias=bias))
    return dit


def unpacked_weights(dit):
    """Give all weights in float64, by the names of an ordinary DiT."""
    weights = {name: value.double() for name, value in dit.state_dict().items()}
    for name, layer in dit.named_modules():
        if isinstance(layer, ScaledLinear):
            weights[f"{name}.weight"] = layer.unpacked_weight(torch.float64)
    return weights


def run(dit):
    text = dit.read_prompt(draw(1, 5, 16, seed=1))
    return dit(
        draw(1, 8, 3, 4, 6, seed=2, scale=1.0),
        torch.tensor([[0.0, 500.0, 900.0]]),
        prompt=text,
        positions=(0, 1, 2),
    )


def test_beside_packed_weights_it_acts_as_if_merged(dit, path):
    factors, more = make_factors(dit, rank=4), make_factors(dit, rank=7, seed=5)
    packed_layers(dit)
    twin = small_dit()
    weights = merged_by_hand(unpacked_weights(dit), factors, 0.8)
    weights = merged_by_hand(weights, more, -0.4)
    twin.load_state_dict({name: value.float() for name, value in weights.items()})
    before = run(dit)
    loras = [
        Lora(file=saved(path, SPELLINGS["musubi"](factors)), strength=0.8),
        Lora(file=saved(path.with_name("b.safetensors"), spelled(more)), strength=-0.4),
    ]
    report = apply(dit, *loras)
    in_blocks = sum(name.startswith("blocks.") for name in LAYERS)
    assert (report.beside, report.merged) == (in_blocks, len(LAYERS) - in_blocks)
    layer = dit.get_submodule("blocks.0.self_attn.q")
    assert isinstance(layer, LowRankLinear)
    assert layer.base.weight.dtype is torch.float8_e4m3fn
    assert layer.down.shape == (11, 48)
    # Both sides compute in fp32, in another order.
    torch.testing.assert_close(run(dit), run(twin), rtol=1e-4, atol=1e-4)
    assert (run(dit) - before).abs().mean() > 0.05


def test_a_low_rank_update_computes_in_the_format_of_its_tokens():
    base = nn.Linear(8, 6)
    down, up = draw(3, 8, seed=1), draw(6, 3, seed=2)
    layer = LowRankLinear(base.bfloat16(), [down.bfloat16()], [up.bfloat16()])
    tokens = draw(2, 5, 8, seed=3, scale=1.0).bfloat16()
    out = layer(tokens)
    assert (out.dtype, out.shape) == (torch.bfloat16, (2, 5, 6))
    expected = base.double()(tokens.double()) + tokens.double() @ (up @ down).T.double()
    torch.testing.assert_close(out.double(), expected, rtol=0.02, atol=0.02)


def test_a_difference_of_a_packed_weight_unpacks_its_layer_alone(dit, path):
    packed_layers(dit)
    expected = unpacked_weights(dit)
    factors = make_factors(dit, layers=["blocks.1.ffn.0"])
    difference, bias = draw(64, 48, seed=8), draw(64, seed=9)
    tensors = {
        **spelled(factors),
        "blocks.1.ffn.0.diff": difference,
        "blocks.1.ffn.0.diff_b": bias,
        "blocks.0.ffn.0.diff_b": bias.clone(),
    }
    expected = merged_by_hand(expected, factors)
    expected["blocks.1.ffn.0.weight"] += difference
    expected["blocks.1.ffn.0.bias"] += bias
    expected["blocks.0.ffn.0.bias"] += bias
    report = apply(dit, Lora(file=saved(path, tensors)))
    assert (report.merged, report.beside) == (3, 0)
    assert type(dit.get_submodule("blocks.1.ffn.0")) is nn.Linear
    assert isinstance(dit.get_submodule("blocks.0.ffn.0"), ScaledLinear)
    found = unpacked_weights(dit)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name, **FP32_ERROR)


def test_biases_beside_packed_weights(dit, path):
    factors = make_factors(dit, layers=["blocks.1.ffn.0"])
    packed_layers(dit)
    bias = dit.get_submodule("blocks.1.ffn.0").bias.clone()
    change = draw(64, seed=9)
    apply(dit, Lora(file=saved(path, {**spelled(factors), "blocks.1.ffn.0.diff_b": change})))
    layer = dit.get_submodule("blocks.1.ffn.0")
    assert isinstance(layer, LowRankLinear)
    torch.testing.assert_close(layer.base.bias, bias + change)


NOTES = {
    "alpha": ({}, {"alpha": 2.0}, 2.0 / 4),
    "none": ({}, {}, 1.0),
    "lora_alpha": ({"r": 4, "lora_alpha": 16}, {}, 4.0),
    "of diffusers": ({"transformer.r": 4, "transformer.lora_alpha": 2}, {}, 0.5),
    "rank-stabilised": ({"lora_alpha": 16, "use_rslora": True}, {}, 16 / math.sqrt(4)),
    "rank-stabilised, no alpha": ({"use_rslora": True}, {}, math.sqrt(4)),
    "not rank-stabilised": ({"lora_alpha": 16, "use_rslora": False}, {}, 4.0),
    "named": ({"lora_alpha": 16, "alpha_pattern": {"self_attn.q": 8.0}}, {}, 2.0),
    "named whole": (
        {"lora_alpha": 16, "alpha_pattern": {"q": 8, "^blocks.0.self_attn.q": 1}},
        {},
        2.0,
    ),
    "another named": (
        {"lora_alpha": 16, "alpha_pattern": {"^self_attn.q": 8, "attn.q": 8, "blocks.0": 8}},
        {},
        4.0,
    ),
    "own alpha before notes": ({"lora_alpha": 16, "use_rslora": True}, {"alpha": 2.0}, 0.5),
}


@pytest.mark.parametrize("case", NOTES)
def test_factors_are_scaled_as_the_file_says(dit, path, case):
    notes, tensors, scale = NOTES[case]
    layer = "blocks.0.self_attn.q"
    factors = make_factors(dit, layers=[layer])
    before = {key: value.clone() for key, value in dit.state_dict().items()}
    tensors = {f"{layer}.{name}": torch.tensor(value) for name, value in tensors.items()}
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(notes)} if notes else None
    apply(dit, Lora(file=saved(path, {**spelled(factors), **tensors}, metadata)))
    same(dit, merged_by_hand(before, factors, scale))


@pytest.mark.parametrize("alpha", [torch.tensor([8.0]), torch.tensor(8), torch.tensor(8.0).half()])
def test_alpha_in_all_its_forms(dit, path, alpha):
    factors = make_factors(dit, layers=["blocks.0.self_attn.q"])
    before = {key: value.clone() for key, value in dit.state_dict().items()}
    tensors = {**SPELLINGS["musubi"](factors), "lora_unet_blocks_0_self_attn_q.alpha": alpha}
    report = apply(dit, Lora(file=saved(path, tensors)))
    same(dit, merged_by_hand(before, factors, 2.0))
    assert report.matches[0].unmatched == ()


DIFFERENCES = {
    "diffusion_model.blocks.0.norm3.diff": "blocks.0.norm3.weight",
    "diffusion_model.blocks.0.norm3.diff_b": "blocks.0.norm3.bias",
    "diffusion_model.blocks.1.self_attn.norm_q.diff": "blocks.1.self_attn.norm_q.weight",
    "diffusion_model.blocks.2.self_attn.v.diff_b": "blocks.2.self_attn.v.bias",
    "diffusion_model.blocks.2.diff_m": "blocks.2.modulation",
    "diffusion_model.blocks.0.modulation.diff": "blocks.0.modulation",
    "transformer.blocks.1.scale_shift_table.diff": "blocks.1.modulation",
    "diffusion_model.head.diff_m": "head.modulation",
    "diffusion_model.head.head.diff": "head.head.weight",
    "diffusion_model.patch_embedding.diff": "patch_embedding.weight",
    "diffusion_model.patch_embedding.diff_b": "patch_embedding.bias",
    "lora_unet_time_projection_1.diff": "time_projection.1.weight",
    "lycoris_blocks_2_norm2.w_norm": "blocks.2.norm3.weight",
    "lycoris_blocks_2_norm2.b_norm": "blocks.2.norm3.bias",
}


def test_differences_are_added_where_they_belong(dit, path):
    before = {key: value.clone() for key, value in dit.state_dict().items()}
    tensors = {
        key: draw(*before[name].shape, seed=index)
        for index, (key, name) in enumerate(DIFFERENCES.items())
    }
    expected = {name: value.double() for name, value in before.items()}
    for key, name in DIFFERENCES.items():
        expected[name] = expected[name] + 0.5 * tensors[key].double()
    report = apply(dit, Lora(file=saved(path, tensors), strength=0.5))
    same(dit, expected)
    assert report.merged == len(DIFFERENCES)
    assert report.matches[0].unmatched == ()


def test_a_bias_behind_the_factors_is_scaled_as_they_are(dit, path):
    layer = "blocks.0.self_attn.q"
    factors, bias = make_factors(dit, layers=[layer]), draw(48, seed=3)
    expected = merged_by_hand(dit.state_dict(), factors, 2.0)
    expected[f"{layer}.bias"] = expected[f"{layer}.bias"] + 2.0 * bias.double()
    tensors = {**spelled(factors), f"{layer}.lora_B.bias": bias, f"{layer}.alpha": torch.tensor(8)}
    apply(dit, Lora(file=saved(path, tensors)))
    same(dit, expected)


@pytest.mark.parametrize("flat", [False, True])
def test_the_patch_embedding_takes_convolutions(dit, path, flat):
    down, up = draw(4, 8, 1, 2, 2, seed=1), draw(48, 4, 1, 1, 1, seed=2)
    factors = {"patch_embedding": (down, up)}
    expected = merged_by_hand(dit.state_dict(), factors)
    if flat:
        factors = {"patch_embedding": (down.flatten(1), up.flatten(1))}
    apply(dit, Lora(file=saved(path, spelled(factors))))
    same(dit, expected)


def test_what_matches_nothing_is_counted_and_named_in_one_line(dit, path, caplog):
    """A LoRA of Wan2.1-I2V on a Wan2.2 model: its image encoder has no place."""
    factors = make_factors(dit)
    expected = merged_by_hand(dit.state_dict(), factors)
    foreign = {
        "diffusion_model.blocks.0.cross_attn.k_img.lora_A.weight": draw(4, 48),
        "diffusion_model.blocks.0.cross_attn.k_img.lora_B.weight": draw(48, 4),
        "diffusion_model.blocks.3.self_attn.q.diff_b": draw(48),
        "blocks.0.self_attn.norm_q.diff_b": draw(48),
        "blocks.2.cross_attn.q.alpha": torch.tensor(1.0),
        "some\nthing": draw(3),
    }
    tensors = {**SPELLINGS["diffusion-pipe"](factors), **foreign}
    with caplog.at_level(logging.WARNING):
        report = apply(dit, Lora(file=saved(path, tensors)))
    same(dit, expected)
    assert set(report.matches[0].unmatched) == set(foreign)
    (record,) = caplog.records
    said = record.getMessage()
    assert said.isprintable()
    assert said.startswith(f"{path}: 6 of {2 * len(LAYERS) + 6} keys match nothing in this model")
    assert all(name in said for name in report.matches[0].as_data()["first_unmatched"])
    assert report.matches[0].as_data()["unmatched"] == 6


def test_strength_zero_leaves_it_out(dit, path):
    before = {key: value.clone() for key, value in dit.state_dict().items()}
    report = apply(dit, Lora(file=saved(path, spelled(make_factors(dit))), strength=0.0))
    assert report.matches == ()
    same(dit, before)


@pytest.mark.parametrize("strength", [1001.0, -1e9, float("nan"), float("inf")])
def test_an_absurd_strength_is_refused(dit, path, strength):
    file = saved(path, spelled(make_factors(dit)))
    with pytest.raises(CheckpointError, match=r"it must be from -1000 to 1000; 1 is usual"):
        Lora(file=file, strength=strength)


def refused(dit, path, tensors, said, metadata=None):
    """Expect a refusal before anything is changed."""
    before = {key: value.clone() for key, value in dit.state_dict().items()}
    fits = saved(path.with_name("fits.safetensors"), spelled(make_factors(dit)))
    with pytest.raises(CheckpointError, match=said) as refusal:
        apply(dit, Lora(file=fits), Lora(file=saved(path, tensors, metadata)))
    assert str(refusal.value).startswith(str(path))
    assert str(refusal.value).isprintable()
    for name, value in dit.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_lora_of_which_nothing_matches_is_refused(dit, path):
    other = small_dit(layers=5)
    factors = make_factors(other, layers=["blocks.3.ffn.0", "blocks.4.ffn.2"])
    said = (
        r"is a LoRA for a model of width 48, rank 4, Wan names, and none of its 4 keys match a "
        r"DiT with 8 input channels \(3 blocks, width 48\); the first are "
        r"blocks\.3\.ffn\.0\.lora_A\.weight, .*\.\.\.\. Choose the LoRA that was made for"
    )
    refused(dit, path, spelled(factors), said)


def test_a_lora_for_another_width_is_refused(dit, path):
    factors = make_factors(small_dit(dim=96))
    said = (
        r"is a LoRA for a model of width 96, rank 4, Wan names, and does not fit a DiT with 8 "
        r"input channels \(3 blocks, width 48\): blocks\.0\.self_attn\.o\.weight is \[48, 48\] "
        r"there, and \[96, 96\] for .*lora_A\.weight; choose the LoRA that was made for this model"
    )
    refused(dit, path, spelled(factors), said)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"patch_embedding.diff": draw(48, 16, 1, 2, 2)}, r"is \[48, 8, 1, 2, 2\] there, and \["),
        ({"blocks.0.diff_m": draw(6, 47)}, r"blocks\.0\.modulation is \[1, 6, 48\] there, and \["),
        ({"head.head.diff_b": draw(31)}, r"head\.head\.bias is \[32\] there, and \[31\] for"),
        (
            spelled({"blocks.0.ffn.0": (draw(4, 64), draw(48, 4))}),
            r"blocks\.0\.ffn\.0\.weight is \[64, 48\] there, and \[48, 64\] for",
        ),
        (
            {"blocks.0.self_attn.q.lora_A.weight": draw(4, 48)},
            r"blocks\.0\.self_attn\.q\.lora_A\.weight stands without its factors",
        ),
        (
            {"blocks.0.self_attn.q.lora_up.bias": draw(48)},
            r"lora_up\.bias stands without its factors; the LoRA is damaged or of an unknown kind",
        ),
        (
            {"head.head.lora_A.weight": draw(4, 48), "head.head.lora_B.weight": draw(32, 5)},
            r"lora_A\.weight \[4, 48\] and .*\[32, 5\] are of different rank",
        ),
        (
            {"head.head.lora_A.weight": draw(0, 48), "head.head.lora_B.weight": draw(32, 0)},
            r"\[0, 48\] and head\.head\.lora_B\.weight \[32, 0\] are of different rank",
        ),
        (
            {"head.head.lora_A.weight": draw(4), "head.head.lora_B.weight": draw(32, 4)},
            r"lora_A\.weight \[4\] and .* are no factors of a weight",
        ),
        (
            {
                "head.head.alpha": draw(2),
                "head.head.lora_A.weight": draw(4, 48),
                "head.head.lora_B.weight": draw(32, 4),
            },
            r"head\.head\.alpha is not one number",
        ),
        (
            {"head.head.diff": torch.zeros(32, 48, dtype=torch.int8)},
            r"head\.head\.diff has the number format I8",
        ),
        (
            {"head.head.diff_b": draw(32), "model.head.head.diff_b": draw(32)},
            r"head\.head\.diff_b and .*head\.head\.diff_b are one key",
        ),
        (
            {"head.head.diff_b": draw(32), "transformer.proj_out.diff_b": draw(32)},
            r"diff_b changes head\.head\.bias, as keys of another spelling do",
        ),
        ({"blocks.0.ffn.0.dora_scale": draw(3)}, r"is a DoRA, which cannot be used: only plain Lo"),
        ({"lycoris_blocks_0_ffn_0.hada_w1_a": draw(3, 3)}, "is a LoHa, which cannot be used"),
        ({"lycoris_blocks_0_ffn_0.lokr_w1": draw(3, 3)}, r"is a LoKr, .* \(LoraLoaderModelOnly\)"),
        ({"a.lora_mid.weight": draw(3, 3)}, "is a LoCon with a core tensor, which cannot be used"),
        ({"a.oft_blocks": draw(3, 3)}, "is an OFT, which cannot be used"),
        ({"a.set_weight": draw(3, 3)}, "is a LoRA that replaces weights, which cannot be used"),
        (
            {
                "double_blocks.0.lora_A.weight": draw(4, 9),
                "double_blocks.0.lora_B.weight": draw(9, 4),
            },
            "is a LoRA, which cannot be used: it was not made for a Wan model",
        ),
        ({"some.weight": draw(3)}, "is an unknown file, but a LoRA is needed here; choose another"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_cannot_be_applied_is_refused_before_anything_changes(dit, path, tensors, said):
    refused(dit, path, tensors, said)


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        ("{", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[]", "it is no JSON object"),
        ('{"lora_alpha": "16"}', "the alpha of lora_alpha is no number up to 1e"),
        ('{"lora_alpha": NaN}', "the alpha of lora_alpha is no number"),
        ('{"lora_alpha": true}', "the alpha of lora_alpha is no number"),
        (f'{{"lora_alpha": {10**400}}}', "the alpha of lora_alpha is no number"),
        ('{"alpha_pattern": []}', "alpha_pattern is no JSON object"),
        ('{"alpha_pattern": {"q": null}}', "the alpha of q is no number"),
        ('{"alpha_pattern": {"(a*)*b\\n": 1}}', r"has \(a\*\)\*b\\n, which is no layer's name"),
        ('{"use_rslora": "yes"}', "use_rslora is neither true nor false"),
    ],
)
def test_wrong_notes_are_refused(dit, path, notes, said):
    tensors = spelled(make_factors(dit))
    said = rf"has wrong notes under lora_adapter_metadata in its metadata: .*{said}.*; use the file"
    refused(dit, path, tensors, said, {"lora_adapter_metadata": notes})


@pytest.mark.parametrize("alpha", [float("nan"), float("inf")])
def test_an_alpha_that_is_no_number_is_refused(dit, path, alpha):
    layer = "blocks.0.self_attn.q"
    tensors = spelled(make_factors(dit, layers=[layer]))
    file = saved(path, {**tensors, f"{layer}.alpha": torch.tensor(alpha)})
    with pytest.raises(CheckpointError, match=r"the alpha of .*lora_A.weight is no finite number"):
        apply(dit, Lora(file=file))


@pytest.mark.parametrize("change", ["remove", "truncate", "other", "reshape"])
def test_a_file_that_changes_after_its_header_was_read_is_refused(dit, path, change):
    tensors = spelled(make_factors(dit))
    file = saved(path, tensors)
    whole = path.read_bytes()
    path.unlink()
    if change == "truncate":
        path.write_bytes(whole[:-10])
    elif change == "other":
        save_file({"a": torch.zeros(3)}, path)
    elif change == "reshape":
        save_file({name: value.flatten() for name, value in tensors.items()}, path)
    with pytest.raises(CheckpointError, match=r"is not what it was a moment ago .*: it was moved"):
        apply(dit, Lora(file=file))


@pytest.mark.parametrize("precision", [FP32, BF16, FP16])
def test_the_files_of_model_and_lora_stay_as_they_are(dit, path, precision):
    """Loaded weights may be the file itself, mapped into memory."""
    model = path.with_name("model.safetensors")
    save_checkpoint(dit, model)
    factors = make_factors(dit)
    file = saved(path, spelled(factors))
    whole = {at: at.read_bytes() for at in (model, path)}
    plain = build_dit(model, precision=precision)
    built = build_dit(model, precision=precision, loras=[Lora(file=file, strength=0.5)])
    assert {at: at.read_bytes() for at in whole} == whole
    islands = {layer for layer in LAYERS if is_island(f"{layer}.weight", FP32_ISLANDS)}
    added = islands if precision is not FP32 else set(LAYERS)
    expected = merged_by_hand(plain.state_dict(), {layer: factors[layer] for layer in added}, 0.5)
    found = {name.replace(".base.", "."): value for name, value in built.state_dict().items()}
    for name, before in plain.state_dict().items():
        value = found.pop(name)
        assert value.dtype is before.dtype
        assert torch.equal(value, before) is (name.removesuffix(".weight") not in added)
        torch.testing.assert_close(value.double(), expected[name].double(), **FP32_ERROR)
    beside = {f"{layer}.{part}" for layer in LAYERS.keys() - added for part in ("down", "up")}
    assert found.keys() == beside
    assert {value.dtype for value in found.values()} <= {precision.compute}
    assert load_file(path).keys() == spelled(factors).keys()
    assert not any(parameter.requires_grad for parameter in built.parameters())


def test_a_match_is_told_from_headers_alone(dit, path):
    """A file of true size, with no data behind it."""
    shapes = {name: tuple(value.shape) for name, value in spelled(make_factors(dit)).items()}
    file = read_lora(detect(read_header(write_sparse(path, shapes))))
    match = match_lora(Lora(file=file, strength=0.25), dit.config)
    assert match.deltas.keys() == {f"{layer}.weight" for layer in LAYERS}
    assert match.gap is None
    assert match.as_data() == {
        "file": str(path),
        "strength": 0.25,
        "parameters": len(LAYERS),
        "unmatched": 0,
        "first_unmatched": [],
    }
