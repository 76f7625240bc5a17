"""8-bit checkpoints of both generations: the same model as in full, but for the rounding."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from swift_core.errors import CheckpointError
from swift_core.model.scaled import ScaledLinear
from swift_core.precision import BF16, FP32, Precision
from swift_core.weights.build import build_dit, build_vae, read_weights
from swift_core.weights.detect import look_into
from swift_core.weights.layouts import dit_to_diffusers
from swift_core.weights.notes import describe_metadata
from tests.loras import make_factors, spelled
from tests.models import small_dit, small_vae

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
BLOCK = "blocks.0.self_attn.q"


@pytest.fixture(scope="module")
def dit():
    return small_dit(dim=64, ffn_dim=96)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def scale_of(weight, dtype, *, by_row):
    largest = weight.abs().amax(1, keepdim=True) if by_row else weight.abs().amax()
    return largest / torch.finfo(dtype).max


def quantise(weights, dtype, *, scaled, name="scale_weight", by_row=False):
    """Pack the matrices of the blocks as published files do; give them and what they stand for."""
    packed, meant = {}, {}
    for key, weight in weights.items():
        packed[key] = meant[key] = weight
        if key.startswith("blocks.") and weight.dim() == 2 and key.endswith(".weight"):
            scale = scale_of(weight, dtype, by_row=by_row) if scaled else torch.ones(())
            packed[key] = (weight / scale).to(dtype)
            meant[key] = packed[key].float() * scale
            if scaled:
                packed[f"{key.removesuffix('.weight')}.{name}"] = scale
    return packed, meant


def run(dit, dtype=torch.float32):
    draw = torch.Generator().manual_seed(3)
    latent = torch.randn((1, 8, 3, 4, 6), generator=draw).to(dtype)
    text = torch.randn((1, 5, 16), generator=draw).to(dtype)
    timestep = torch.tensor([[0.0, 700.0, 700.0]])
    with torch.no_grad():
        return dit(latent, timestep, dit.read_prompt(text), positions=(0, 1, 2))


def distance(got, wanted):
    return ((got.double() - wanted.double()).norm() / wanted.double().norm()).item()


FORMS = {
    "plain e4m3": (E4M3, {"scaled": False}, {}),
    "plain e5m2": (E5M2, {"scaled": False}, {}),
    "first generation": (E4M3, {"scaled": True}, {"scaled_fp8": torch.zeros(2, dtype=E4M3)}),
    "first generation, e5m2": (E5M2, {"scaled": True}, {"scaled_fp8": torch.zeros(0, dtype=E5M2)}),
    "first generation, with inputs": (
        E4M3,
        {"scaled": True},
        {f"{BLOCK}.scale_input": torch.tensor(3.0)},
    ),
    "second generation": (
        E4M3,
        {"scaled": True, "name": "weight_scale"},
        {
            f"{BLOCK}.input_scale": torch.tensor(3.0),
            f"{BLOCK}.comfy_quant": torch.tensor(list(b'{"format": "float8_e4m3fn"}')).byte(),
        },
    ),
    "a scale for each output": (E4M3, {"scaled": True, "name": "weight_scale", "by_row": True}, {}),
}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("form", FORMS)
def test_a_packed_dit_is_the_dit_that_its_numbers_mean(dit, path, form, prefix):
    dtype, how, extra = FORMS[form]
    packed, meant = quantise(dit.state_dict(), dtype, **how)
    content = {f"{prefix}{name}": value for name, value in (packed | extra).items()}
    save_file(content, path, metadata=describe_metadata(dit.config))
    built = build_dit(path, precision=FP32)
    assert isinstance(built.blocks[0].self_attn.q, ScaledLinear)
    assert built.blocks[0].ffn[2].weight.dtype == dtype
    reference = small_dit(dim=64, ffn_dim=96)
    reference.load_state_dict(meant)
    assert distance(run(built), run(reference)) < 1e-6


def test_against_full_precision_the_error_is_that_of_8_bits(dit, path):
    full = run(dit)
    errors = {}
    for dtype in (E4M3, E5M2):
        packed, _ = quantise(dit.state_dict(), dtype, scaled=True)
        save_file(packed, path, metadata=describe_metadata(dit.config))
        errors[dtype] = distance(run(build_dit(path, precision=FP32)), full)
    # A weight is off by 2.7 % (e4m3) or 5.3 % (e5m2), root mean square.
    assert 0.002 < errors[E4M3] < 0.03
    assert errors[E4M3] < errors[E5M2] < 0.06


def test_in_bf16_a_packed_dit_is_as_good_as_an_unpacked_one(dit, path):
    packed, meant = quantise(dit.state_dict(), E4M3, scaled=True)
    save_file(packed, path, metadata=describe_metadata(dit.config))
    reference = small_dit(dim=64, ffn_dim=96)
    reference.load_state_dict(meant)
    assert distance(run(build_dit(path, precision=BF16), torch.bfloat16), run(reference)) < 2e-2


def test_8_bit_products_stay_within_the_stated_error(dit, path):
    packed, meant = quantise(dit.state_dict(), E4M3, scaled=True)
    save_file(packed, path, metadata=describe_metadata(dit.config))
    reference = small_dit(dim=64, ffn_dim=96)
    reference.load_state_dict(meant)
    fast = Precision(weights=torch.float32, compute=torch.float32, fp8_products=True)
    built = build_dit(path, precision=fast)
    assert built.blocks[0].self_attn.q.products
    assert 1e-4 < distance(run(built), run(reference)) < 0.03


def test_only_linear_layers_outside_the_islands_stay_packed(dit, path):
    weights = {name: value.to(E4M3) for name, value in dit.state_dict().items()}
    save_file(weights, path, metadata=describe_metadata(dit.config))
    built = build_dit(path, precision=BF16)
    formats = {name: value.dtype for name, value in built.state_dict().items()}
    assert formats["blocks.1.cross_attn.k.weight"] == E4M3
    assert formats["text_embedding.2.weight"] == E4M3
    assert formats["blocks.1.cross_attn.k.bias"] == torch.bfloat16
    assert formats["patch_embedding.weight"] == torch.bfloat16
    assert formats["head.head.weight"] == torch.float32
    assert formats["time_projection.1.weight"] == torch.float32
    reference = small_dit(dim=64, ffn_dim=96)
    reference.load_state_dict({name: value.float() for name, value in weights.items()})
    assert distance(run(build_dit(path, precision=FP32)), run(reference)) < 1e-6


def test_a_scale_of_a_wide_weight_counts_too(dit, path):
    weights = dict(dit.state_dict())
    weights["head.head.weight"] = weights["head.head.weight"] / 2
    weights["head.head.scale_weight"] = torch.tensor(2.0)
    save_file(weights, path, metadata=describe_metadata(dit.config))
    assert torch.equal(run(build_dit(path, precision=FP32)), run(dit))


def test_a_packed_dit_in_diffusers_names_is_the_same(dit, path):
    packed, _ = quantise(dit.state_dict(), E4M3, scaled=True)
    save_file(packed, path, metadata=describe_metadata(dit.config))
    expected = run(build_dit(path, precision=FP32))
    names = dit_to_diffusers(dit.state_dict())
    renamed = {}
    for name, value in packed.items():
        layer, _, part = name.rpartition(".")
        known = names.get(name) or names[f"{layer}.weight"].removesuffix("weight") + part
        renamed[known] = value
    path.unlink()
    save_file(renamed, path, metadata=describe_metadata(dit.config))
    assert torch.equal(run(build_dit(path, precision=FP32)), expected)
    stored = read_weights(look_into(path))
    assert stored.keys() == packed.keys()
    assert stored[f"{BLOCK}.weight"].dtype == E4M3


def test_a_vae_in_8_bits_is_unpacked_where_it_convolves(path):
    vae = small_vae()
    weights = {name: value.to(E4M3) for name, value in vae.state_dict().items()}
    save_file(weights, path, metadata=describe_metadata(vae.config))
    built = build_vae(path, precision=FP32).state_dict()
    for name, value in weights.items():
        assert torch.equal(built[name], value.float()), name


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
def test_a_scale_that_is_no_scale_is_refused(dit, path, value):
    packed, _ = quantise(dit.state_dict(), E4M3, scaled=True)
    packed[f"{BLOCK}.scale_weight"] = torch.tensor(value)
    save_file(packed, path, metadata=describe_metadata(dit.config))
    said = rf"model\.safetensors: the scale of {BLOCK}\.weight holds {value:g} to {value:g}, but"
    with pytest.raises(CheckpointError, match=said):
        build_dit(path, precision=FP32)


def split(weights, folder, metadata):
    """Write a model as two files and their index."""
    names = sorted(weights)
    half = len(names) // 2
    parts = {
        "a-00001-of-00002.safetensors": names[:half],
        "a-00002-of-00002.safetensors": names[half:],
    }
    for file_name, held in parts.items():
        save_file({name: weights[name] for name in held}, folder / file_name, metadata=metadata)
    entries = {name: file_name for file_name, held in parts.items() for name in held}
    index = folder / "a.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": entries}))
    return index


def test_a_model_in_two_files_is_the_model(dit, tmp_path):
    packed, _ = quantise(dit.state_dict(), E4M3, scaled=True)
    save_file(packed, tmp_path / "whole.safetensors", metadata=describe_metadata(dit.config))
    expected = run(build_dit(tmp_path / "whole.safetensors", precision=FP32))
    (tmp_path / "parts").mkdir()
    index = split(packed, tmp_path / "parts", describe_metadata(dit.config))
    for source in (index, index.parent, index.parent / "a-00002-of-00002.safetensors"):
        assert torch.equal(run(build_dit(source, precision=FP32)), expected)
    assert " in 2 files, complete." in look_into(index).sentence


@pytest.mark.parametrize(("stored", "computed"), [(torch.float16, BF16), (torch.bfloat16, "fp16")])
def test_the_other_format_of_16_bits_is_converted_as_layers_run(dit, path, stored, computed):
    precision = (
        BF16 if computed is BF16 else Precision(weights=torch.float16, compute=torch.float16)
    )
    short = precision.compute
    weights = {name: value.to(stored) for name, value in dit.state_dict().items()}
    save_file(weights, path, metadata=describe_metadata(dit.config))
    loaded = build_dit(path, precision=precision)
    at_once = {name: value.to(stored).to(short) for name, value in dit.state_dict().items()}
    save_file(
        at_once, path.with_name("at once.safetensors"), metadata=describe_metadata(dit.config)
    )
    wanted = build_dit(path.with_name("at once.safetensors"), precision=precision)
    layer = loaded.get_submodule(BLOCK)
    assert isinstance(layer, ScaledLinear)
    assert layer.weight.dtype == stored
    assert not layer.products
    assert not isinstance(wanted.get_submodule(BLOCK), ScaledLinear)
    islands = [name for name, value in wanted.named_parameters() if value.dtype == torch.float32]
    for name in islands:  # these are fp32, rounded once and not twice
        wanted.get_parameter(name).data = loaded.get_parameter(name).data
    assert torch.equal(run(loaded, short), run(wanted, short))


def test_in_fp32_16_bits_are_unpacked_at_once(dit, path):
    weights = {name: value.half() for name, value in dit.state_dict().items()}
    save_file(weights, path, metadata=describe_metadata(dit.config))
    loaded = build_dit(path, precision=FP32)
    assert not any(isinstance(module, ScaledLinear) for module in loaded.modules())


MEASURE = """
import sys
from pathlib import Path
import torch
from swift_core.precision import BF16
from swift_core.weights.build import build_dit

def anonymous():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])

build_dit(Path(sys.argv[1]), precision=BF16)  # what is needed once, whatever the size
before = anonymous()
dit = build_dit(Path(sys.argv[2]), precision=BF16)
touched = [value.view(torch.uint8).amax() for value in dit.parameters()]
islands = sum(value.nbytes for value in dit.parameters() if value.dtype == torch.float32)
print(anonymous() - before - islands)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("form", ["bf16", "fp16", "fp8"])
def test_loading_maps_the_file_and_copies_only_what_must_be_fp32(dit, path, form):
    large = small_dit(dim=512, ffn_dim=2048, heads=8, layers=4)
    for module, target in ((dit, path.with_name("small.safetensors")), (large, path)):
        short = torch.float16 if form == "fp16" else torch.bfloat16
        weights = {name: value.to(short) for name, value in module.state_dict().items()}
        if form == "fp8":
            weights, _ = quantise(weights, E4M3, scaled=True)
        save_file(weights, target, metadata=describe_metadata(module.config))
    command = [sys.executable, "-c", MEASURE, str(path.with_name("small.safetensors")), str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert path.stat().st_size > 20e6
    assert int(said.stdout) < 4e6


MEASURE_LORAS = """
import sys
from pathlib import Path
import torch
from swift_core.precision import BF16
from swift_core.weights.build import build_dit
from swift_core.weights.lora import Lora, read_lora
from swift_core.weights.lora_merge import apply_loras

def anonymous():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])

lora = Lora(file=read_lora(Path(sys.argv[2])))
dit = build_dit(Path(sys.argv[1]), precision=BF16)
touched = [value.view(torch.uint8).amax() for value in dit.parameters()]
before = anonymous()
report = apply_loras(dit, [lora], precision=BF16)
assert report.merged == 0, report
touched = [value.view(torch.uint8).amax() for value in dit.parameters()]
print(anonymous() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("form", ["bf16", "fp16", "fp8"])
def test_a_lora_on_a_mapped_model_takes_its_factors_and_no_more(path, form):
    large = small_dit(dim=512, ffn_dim=2048, heads=8, layers=4)
    short = torch.float16 if form == "fp16" else torch.bfloat16
    weights = {name: value.to(short) for name, value in large.state_dict().items()}
    if form == "fp8":
        weights, _ = quantise(weights, E4M3, scaled=True)
    save_file(weights, path, metadata=describe_metadata(large.config))
    linear = [
        name.removesuffix(".weight")
        for name, value in large.state_dict().items()
        if name.startswith("blocks.") and name.endswith(".weight") and value.dim() == 2
    ]
    tensors = spelled(make_factors(large, 8, linear))
    save_file(tensors, path.with_name("lora.safetensors"))
    given = [str(path), str(path.with_name("lora.safetensors"))]
    command = [sys.executable, "-c", MEASURE_LORAS, *given]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    factors = sum(value.nbytes for value in tensors.values()) // 2
    assert path.stat().st_size > 20e6
    assert int(said.stdout) < factors + 4e6
