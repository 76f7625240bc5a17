"""LoRAs on weights of 16 bits and less: beside them, nearer to the truth, and in little memory."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from swift_core.geometry import LatentShape
from swift_core.live_bytes import LiveBytes, TensorsOnly
from swift_core.memory.streaming import block_nbytes
from swift_core.memory.working import Step
from swift_core.model.dit import FP32_ISLANDS
from swift_core.model.low_rank import LowRankLinear
from swift_core.model.scaled import ScaledLinear
from swift_core.precision import BF16, FP32, Precision, is_island
from swift_core.weights.build import build_dit, save_checkpoint
from swift_core.weights.lora import Lora, match_lora, read_lora
from swift_core.weights.lora_merge import apply_loras
from swift_core.weights.lora_sizes import AddedBytes, added_nbytes
from swift_core.weights.notes import describe_metadata
from tests.loras import LAYERS, draw, make_factors, merged_by_hand, spelled
from tests.models import SMALL_DIT, small_dit

FP16 = Precision(weights=torch.float16, compute=torch.float16)
SIZES = {"dim": 96, "ffn_dim": 160, "layers": 2}
ISLANDS = {layer for layer in LAYERS if is_island(layer, FP32_ISLANDS)}
BLOCK = ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "cross_attn.q", "cross_attn.k")
BLOCK += ("cross_attn.v", "cross_attn.o", "ffn.0", "ffn.2")
EVERY = [f"blocks.{index}.{layer}" for index in range(2) for layer in BLOCK]
EVERY += ["text_embedding.0", "text_embedding.2", "time_embedding.0", "time_projection.1"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lora.safetensors"


def save_in(module, dtype, path):
    """Write a model in one format, as published."""
    weights = {name: value.to(dtype) for name, value in module.state_dict().items()}
    save_file(weights, path, metadata=describe_metadata(module.config))


@pytest.fixture
def model(tmp_path):
    save_in(small_dit(**SIZES), torch.bfloat16, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def lora(path, tensors, strength=1.0):
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    return Lora(file=read_lora(path), strength=strength)


def run(dit, dtype):
    text = dit.read_prompt(draw(1, 5, 16, seed=1, scale=1.0).to(dtype))
    latent = draw(1, 8, 3, 8, 12, seed=2, scale=1.0).to(dtype)
    timestep = torch.tensor([[0.0, 500.0, 900.0]])
    with torch.no_grad():
        return dit(latent, timestep, prompt=text, positions=(0, 1, 2)).double()


def distance(got, wanted):
    return ((got - wanted).norm() / wanted.norm()).item()


def slight(dit, layers, share, rank=4, seed=0):
    """Draw factors whose products are small beside the weights, as those of real LoRAs are."""
    weights, made = dit.state_dict(), {}
    for layer, (down, up) in make_factors(dit, rank, layers, seed).items():
        made[layer] = (down, up * (share * weights[f"{layer}.weight"].norm() / (up @ down).norm()))
    return made


@pytest.mark.parametrize("share", [0.003, 0.03, 0.3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_layer_is_nearer_to_the_truth_than_its_merged_twin(dtype, share):
    """Weights are given in 16 bits; what is compared is whole outputs with exact ones."""
    base = nn.Linear(256, 192)
    base.weight.data, base.bias.data = draw(192, 256, seed=1), draw(192, seed=2)
    base = base.to(dtype).requires_grad_(False)
    down, up = draw(16, 256, seed=3), draw(192, 16, seed=4)
    up = up * (share * base.weight.float().norm() / (up @ down).norm())
    tokens = draw(2, 64, 256, seed=5, scale=1.0).to(dtype)
    weight = base.weight.double() + up.double() @ down.double()
    exact = tokens.double() @ weight.T + base.bias.double()
    merged = nn.functional.linear(tokens, weight.to(dtype), base.bias)
    beside = LowRankLinear(base, [down.to(dtype)], [up.to(dtype)])(tokens)
    least = distance(exact.to(dtype).double(), exact)
    # What is left is the rounding of the output itself, and little more.
    assert distance(beside.double(), exact) < 1.2 * least
    assert distance(merged.double(), exact) > 1.3 * least


@pytest.mark.parametrize("share", [0.01, 0.1])
@pytest.mark.parametrize("precision", [BF16, FP16], ids=["bf16", "fp16"])
def test_a_dit_is_at_least_as_near_to_the_truth_as_its_merged_twin(tmp_path, precision, share):
    """With all roundings of its activations, which hide a part of the weights', in some draws."""
    source, merged = tmp_path / "model.safetensors", tmp_path / "merged.safetensors"
    save_in(small_dit(**SIZES), precision.weights, source)
    rounded = build_dit(source, precision=precision).state_dict()
    ours = theirs = 0.0
    for seed in range(3):
        exact = build_dit(source, precision=FP32)
        factors = slight(exact, EVERY, share, seed=seed)
        weights = merged_by_hand(exact.state_dict(), factors)
        exact.load_state_dict({name: value.float() for name, value in weights.items()})
        twin = {name: value.to(rounded[name].dtype) for name, value in weights.items()}
        save_file(twin, merged, metadata=describe_metadata(exact.config))
        given = lora(tmp_path / "lora.safetensors", spelled(factors))
        wanted = run(exact, torch.float32)
        beside = build_dit(source, precision=precision, loras=[given])
        ours += distance(run(beside, precision.compute), wanted)
        theirs += distance(run(build_dit(merged, precision=precision), precision.compute), wanted)
    assert ours <= theirs < 0.05


def test_a_mapped_model_stays_mapped_and_only_factors_are_new(model, path):
    dit = build_dit(model, precision=BF16)
    before = {name: value.data_ptr() for name, value in dit.state_dict().items()}
    report = apply_loras(
        dit, [lora(path, spelled(make_factors(dit, layers=EVERY)))], precision=BF16
    )
    found = {name.replace(".base.", "."): value for name, value in dit.state_dict().items()}
    added = {f"{layer}.weight" for layer in ("time_embedding.0", "time_projection.1")}
    for name, at in before.items():
        assert (found.pop(name).data_ptr() == at) is (name not in added), name
    beside = [layer for layer in EVERY if f"{layer}.weight" not in added]
    assert found.keys() == {f"{layer}.{part}" for layer in beside for part in ("down", "up")}
    assert (report.merged, report.beside) == (2, len(beside))
    assert {value.dtype for value in found.values()} == {torch.bfloat16}


def test_what_is_no_weight_of_a_linear_layer_is_added_to(model, path):
    dit = build_dit(model, precision=BF16)
    before = {name: value.clone() for name, value in dit.state_dict().items()}
    layer = "blocks.1.ffn.0"
    differences = {
        "patch_embedding.diff": "patch_embedding.weight",
        f"{layer}.diff_b": f"{layer}.bias",
        "blocks.0.norm3.diff": "blocks.0.norm3.weight",
        "blocks.0.diff_m": "blocks.0.modulation",
        "head.head.diff": "head.head.weight",
    }
    tensors = {
        key: draw(*before[name].shape, seed=index)
        for index, (key, name) in enumerate(differences.items())
    }
    conv = {"patch_embedding": (draw(4, 8, 1, 2, 2, seed=8), draw(96, 4, 1, 1, 1, seed=9))}
    factors = make_factors(dit, layers=[layer])
    report = apply_loras(
        dit, [lora(path, {**tensors, **spelled({**conv, **factors})})], precision=BF16
    )
    assert (report.merged, report.beside) == (len(differences), 1)
    expected = merged_by_hand(before, conv)
    for key, name in differences.items():
        expected[name] = expected[name].double() + tensors[key]
    found = {name.replace(".base.", "."): value for name, value in dit.state_dict().items()}
    for name, value in before.items():
        assert found[name].dtype is value.dtype
        rounded = expected[name].float().to(value.dtype)
        torch.testing.assert_close(found[name], rounded, rtol=2**-7, atol=1e-6, msg=name)
    assert isinstance(dit.get_submodule(layer), LowRankLinear)


def test_a_whole_difference_and_factors_of_one_layer_are_added_together(model, path):
    dit = build_dit(model, precision=BF16)
    both, other = "blocks.0.self_attn.q", "blocks.0.self_attn.k"
    factors = make_factors(dit, layers=[both, other])
    difference = draw(96, 96, seed=8)
    expected = merged_by_hand(dit.state_dict(), {both: factors[both]}, 0.5)[f"{both}.weight"]
    given = lora(path, {**spelled(factors), f"{both}.diff": difference}, 0.5)
    report = apply_loras(dit, [given], precision=BF16)
    assert (report.merged, report.beside) == (1, 1)
    assert type(dit.get_submodule(both)) is nn.Linear
    rounded = (expected + 0.5 * difference).to(torch.bfloat16)
    torch.testing.assert_close(dit.get_submodule(both).weight, rounded, rtol=2**-7, atol=0)
    assert isinstance(dit.get_submodule(other), LowRankLinear)


def test_strengths_and_several_loras(model, path):
    plain = run(build_dit(model, precision=BF16), BF16.compute)
    tensors = [
        spelled(make_factors(small_dit(**SIZES), layers=EVERY, seed=seed)) for seed in (1, 2)
    ]
    paths = [path.with_name(f"{name}.safetensors") for name in "ab"]

    def made(*strengths):
        given = [lora(*one) for one in zip(paths, tensors, strengths, strict=True)]
        return build_dit(model, precision=BF16, loras=given)

    nothing = made(0.0, 0.0)
    assert not any(isinstance(module, LowRankLinear) for module in nothing.modules())
    assert torch.equal(run(nothing, BF16.compute), plain)
    one = run(made(0.5, 0.0), BF16.compute)
    assert torch.equal(run(made(0.5, 0.0), BF16.compute), one)
    assert distance(one, plain) > 0.05
    assert not torch.equal(run(made(0.6, 0.0), BF16.compute), one)
    both = made(0.5, -0.25)
    assert both.get_submodule(EVERY[0]).rank == 8
    in_turn = made(0.5, 0.0)
    apply_loras(in_turn, [lora(paths[1], tensors[1], -0.25)], precision=BF16)
    assert torch.equal(run(in_turn, BF16.compute), run(both, BF16.compute))
    assert both.state_dict().keys() == in_turn.state_dict().keys()


@pytest.mark.parametrize("stored", ["bf16", "fp16", "fp8"])
def test_a_later_difference_changes_the_weight_under_the_factors(tmp_path, path, stored):
    """Whatever the layer is: its own weight, another 16-bit format or 8 bits."""
    layer = "blocks.1.ffn.2"
    formats = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.float8_e4m3fn}
    save_in(small_dit(**SIZES), formats[stored], tmp_path / "model.safetensors")
    dit = build_dit(tmp_path / "model.safetensors", precision=BF16)
    before = dit.get_submodule(layer)
    assert isinstance(before, nn.Linear if stored == "bf16" else ScaledLinear)
    weight, bias = before.weight.float(), before.bias.float()
    factors = make_factors(dit, layers=[layer])
    apply_loras(dit, [lora(path, spelled(factors))], precision=BF16)
    difference, shift = draw(*weight.shape, seed=6), draw(*bias.shape, seed=7)
    second = {f"{layer}.diff": difference, f"{layer}.diff_b": shift}
    report = apply_loras(dit, [lora(path.with_name("b.safetensors"), second)], precision=BF16)
    assert (report.merged, report.beside) == (2, 0)
    found = dit.get_submodule(layer)
    assert isinstance(found, LowRankLinear)
    assert type(found.base) is nn.Linear
    tokens = draw(3, 7, 160, seed=5, scale=1.0).bfloat16()
    down, up = factors[layer]
    whole = weight + difference + up @ down
    expected = tokens.float() @ whole.T + bias + shift
    assert distance(found(tokens).double(), expected.double()) < 5e-3


@pytest.mark.parametrize("inputs", [(5, 256), (2, 3, 256), (1, 2, 3, 256)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["linear", "fp8", "scaled", "by row", "products", "fp16"])
def test_every_kind_of_layer_takes_factors(kind, bias, inputs):
    weight, shift = draw(64, 256, seed=1, scale=0.06), draw(64, seed=2) if bias else None
    scale, dtype = torch.ones(()), torch.float8_e4m3fn
    if kind == "by row":
        scale = weight.abs().amax(1, keepdim=True) / 448
    elif kind in ("scaled", "products"):
        scale = weight.abs().amax() / 448
    elif kind == "fp16":
        dtype = torch.float16
    base = nn.Linear(256, 64, bias=bias)
    base.weight.data = weight
    if bias:
        base.bias.data = shift
    if kind != "linear":
        base = ScaledLinear(
            (weight / scale).to(dtype), scale=scale, bias=shift, products=kind == "products"
        )
        weight = base.unpacked_weight(torch.float32)
    base.requires_grad_(False)
    down, up = draw(3, 256, seed=3, scale=0.06), draw(64, 3, seed=4)
    tokens = draw(*inputs, seed=5, scale=1.0)
    whole = nn.functional.linear(tokens, weight + up @ down, shift)
    if kind == "products":  # rounds the tokens too, in its own product alone
        whole = base(tokens) + nn.functional.linear(tokens, up @ down)
    kept = tokens.clone()
    out = LowRankLinear(base, [down], [up])(tokens)
    torch.testing.assert_close(out, whole, rtol=1e-5, atol=1e-5)
    assert torch.equal(tokens, kept)


def test_zeros_that_widen_factors_change_nothing():
    base = nn.Linear(48, 32).requires_grad_(False)
    layer = LowRankLinear(base, [draw(3, 48, seed=1)], [draw(32, 3, seed=2)])
    tokens = draw(5, 48, seed=3)
    before = layer(tokens)
    layer.widen(2)
    assert layer.rank == 3
    layer.widen(7)
    assert (layer.rank, layer.down.shape, layer.up.shape) == (7, (7, 48), (32, 7))
    torch.testing.assert_close(layer(tokens), before, rtol=1e-6, atol=1e-6)


def uneven(dit):
    """LoRAs of different ranks, differences, islands and biases: all that sizes depend on."""
    layers = {"blocks.0.ffn.0": 3, "blocks.1.self_attn.q": 9, "blocks.1.ffn.2": 5}
    layers |= {"text_embedding.2": 7, "time_projection.1": 11, "head.head": 2}
    tensors = {}
    for layer, rank in layers.items():
        tensors |= spelled(make_factors(dit, rank, [layer]))
    shapes = dit.state_dict()
    for layer in ("blocks.0.ffn.2", "blocks.1.self_attn.q", "patch_embedding"):
        tensors[f"{layer}.diff"] = draw(*shapes[f"{layer}.weight"].shape)
    tensors["blocks.0.self_attn.v.diff_b"] = draw(96)
    return tensors


@pytest.mark.parametrize("compute", ["bf16", "fp32"])
@pytest.mark.parametrize("stored", ["bf16", "fp8"])
def test_a_plan_counts_what_loras_add(tmp_path, path, stored, compute):
    dit = small_dit(**SIZES)
    precision = BF16 if compute == "bf16" else FP32
    formats = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
    save_in(dit, formats[stored], tmp_path / "model.safetensors")
    first = lora(path, uneven(dit), 0.7)
    second = lora(path.with_name("b.safetensors"), spelled(make_factors(dit, 6, EVERY)))
    unused = lora(path.with_name("c.safetensors"), spelled(make_factors(dit, 60, EVERY)), 0.0)
    chosen = (first, second, unused)
    matches = [match_lora(one, dit.config) for one in chosen]
    packs = stored == "fp8"
    added = added_nbytes(matches, dit.config, compute=precision.compute, packs=packs)
    plain = block_nbytes(build_dit(tmp_path / "model.safetensors", precision=precision))
    loaded = build_dit(tmp_path / "model.safetensors", precision=precision, loras=chosen)
    with_loras = block_nbytes(loaded)
    assert (added.block, added.fixed) == tuple(
        after - before for after, before in zip(with_loras, plain, strict=True)
    )
    assert (added == AddedBytes()) is (compute == "fp32" and not packs)


def test_a_step_takes_little_more_with_factors_beside():
    """What lies between the factors, for the time of one product; no second output."""
    window = LatentShape(channels=8, latent_frames=3, height=16, width=24)
    config = replace(SMALL_DIT, layers=2)
    rank, tokens = 4, window.latent_frames * window.tokens_per_frame(config.patch)

    def peak(dit):
        latent, text = torch.randn(1, 8, 3, 16, 24), torch.randn(1, 5, 16)
        with torch.no_grad(), LiveBytes(dit.parameters()) as alive, TensorsOnly():
            dit(latent, torch.zeros(1, 3), dit.read_prompt(text), positions=range(3))
        return alive.peak

    dit = small_dit(layers=2)
    before = peak(dit)
    for name, layer in list(dit.blocks.named_modules()):
        if isinstance(layer, nn.Linear):
            down, up = draw(rank, layer.in_features), draw(layer.out_features, rank)
            dit.blocks.set_submodule(name, LowRankLinear(layer, [down], [up]))
    assert before <= peak(dit) <= before + 4 * rank * tokens
    assert before == pytest.approx(Step(window=window).nbytes(config, compute=torch.float32), 0.1)


def test_a_dit_with_factors_is_not_saved(model, path):
    dit = build_dit(model, precision=BF16)
    apply_loras(dit, [lora(path, spelled(make_factors(dit, layers=EVERY)))], precision=BF16)
    with pytest.raises(AssertionError, match="no scales and no factors"):
        save_checkpoint(dit, model.with_name("again.safetensors"))
