"""Any mix of layers, spellings and ranks adds what it says; any file ends in a CheckpointError."""

import json

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from swift_core.errors import CheckpointError
from swift_core.precision import FP32
from swift_core.weights.detect import detect
from swift_core.weights.headers import read_header
from swift_core.weights.lora import Lora, match_lora, read_lora
from swift_core.weights.lora_keys import bare, is_wan, layer_table, split_key
from swift_core.weights.lora_merge import apply_loras
from tests.loras import LAYERS, make_factors, merged_by_hand
from tests.models import SMALL_DIT, small_dit
from tests.sparse import write_sparse

# One file is written again and again.
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

DOTTED = ["", "model.", "diffusion_model.", "transformer.", "pipe.dit.", "base_model.model."]
UNDERSCORED = ["lora_unet__", "lora_unet_", "lycoris_", "lora_transformer_"]
PAIRS = [("lora_A.weight", "lora_B.weight"), ("lora_down.weight", "lora_up.weight")]
PAIRS += [("lora_A.default.weight", "lora_B.default.weight"), ("lora_A", "lora_B")]


@st.composite
def loras(draw):
    """A LoRA: per layer its rank, its alpha or none, and how its keys are spelled."""
    layers = draw(st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, unique=True))
    made = []
    for layer in layers:
        name = draw(st.sampled_from([layer, LAYERS[layer]]))
        prefixes = st.sampled_from(DOTTED + UNDERSCORED)
        prefix = draw(prefixes)
        name = name.replace(".", "_") if prefix in UNDERSCORED else name
        rank = draw(st.integers(1, 60))
        alpha = draw(st.none() | st.floats(-100, 100, width=32))
        made.append((layer, f"{prefix}{name}", rank, alpha, draw(st.sampled_from(PAIRS))))
    return made, draw(st.floats(-2, 2, width=32))


@same_folder
@given(drawn=st.lists(loras(), min_size=1, max_size=3))
def test_any_loras_add_what_they_say(tmp_path, drawn):
    dit = small_dit()
    expected = {name: value.double() for name, value in dit.state_dict().items()}
    given_loras = []
    for index, (layers, strength) in enumerate(drawn):
        tensors = {}
        for layer, name, rank, alpha, (down, up) in layers:
            factors = make_factors(dit, rank, [layer], seed=index)
            tensors[f"{name}.{down}"], tensors[f"{name}.{up}"] = factors[layer]
            if alpha is not None:
                tensors[f"{name}.alpha"] = torch.tensor(alpha)
            scale = strength * (1.0 if alpha is None else alpha / rank)
            expected = merged_by_hand(expected, factors, scale)
        path = tmp_path / f"{index}.safetensors"
        save_file(tensors, path)
        given_loras.append(Lora(file=read_lora(path), strength=strength))
    report = apply_loras(dit, given_loras, precision=FP32)
    assert all(match.unmatched == () for match in report.matches)
    for name, value in dit.state_dict().items():
        # Sums of up to 60 products a LoRA in fp32, in another order, scaled by up to 200.
        error = 1e-5 * max(1.0, float(expected[name].abs().max()))
        torch.testing.assert_close(value.double(), expected[name], rtol=0, atol=error, msg=name)


WORDS = ["blocks", "0", "2", "3", "255", "self_attn", "q", "to_q", "attn1", "ffn", "net", "head"]
WORDS += ["lora_A", "lora_B", "lora_down", "lora_up", "default", "weight", "bias", "alpha"]
WORDS += ["diff", "diff_b", "diff_m", "modulation", "dora_scale", "hada_w1_a", "norm3", "model"]
WORDS += ["lora_unet__blocks_0_self_attn_q", "lycoris_head_head", "transformer", "", "\n", "\x1b"]
parts = st.sampled_from(WORDS)
names = st.lists(parts, min_size=1, max_size=6).map(".".join)
suffixes = st.sampled_from(["lora_A.weight", "lora_B.weight", "alpha", "diff", "diff_b", "diff_m"])
targets = st.sampled_from(sorted(layer_table(SMALL_DIT.layers)))
keys = names | st.tuples(targets, suffixes).map(".".join)
shapes = st.lists(st.sampled_from([0, 1, 2, 4, 8, 32, 48, 64]), max_size=5).map(tuple)
formats = st.sampled_from(["F32", "BF16", "F16", "F8_E4M3", "I8", "F4", "U8"])


@same_folder
@given(
    tensors=st.dictionaries(keys, st.tuples(formats, shapes), max_size=6),
    notes=st.none()
    | st.fixed_dictionaries(
        {},
        optional={
            "lora_alpha": st.none() | st.integers() | st.floats() | st.text(max_size=3),
            "transformer.use_rslora": st.none() | st.booleans() | st.integers(),
            "alpha_pattern": st.dictionaries(st.text(max_size=5), st.integers() | st.none()),
        },
    ),
)
def test_any_header_is_a_lora_or_refused(tmp_path, tensors, notes):
    path = tmp_path / "a.safetensors"
    metadata = None if notes is None else {"lora_adapter_metadata": json.dumps(notes)}
    shapes = {
        name: (dtype, shape if dtype != "F4" else (*shape, 2))
        for name, (dtype, shape) in tensors.items()
    }
    write_sparse(path, shapes, metadata=metadata)
    try:
        checkpoint = detect(read_header(path))
        said = checkpoint.sentence
        match = match_lora(Lora(file=read_lora(checkpoint)), SMALL_DIT)
        assert match.deltas
        assert len(match.unmatched) < len(tensors)
        said += match.gap or ""
        json.dumps(match.as_data())
        apply_loras(small_dit(), [match.lora], precision=FP32)
    except CheckpointError as error:
        said = str(error)
        assert str(path) in said
    assert said.isprintable()


@given(name=st.text(max_size=40) | keys)
def test_any_key_is_split_into_its_layer_and_a_known_suffix(name):
    found = split_key(name)
    if found is not None:
        stem, _ = found
        assert stem in name
        assert bare(stem) in stem
        assert is_wan(stem) or stem not in layer_table(30)


@given(repeats=st.integers(1, 2000), prefix=st.sampled_from(DOTTED[1:] + UNDERSCORED))
def test_many_prefixes_are_not_followed_to_their_end(repeats, prefix):
    assert len(bare(prefix * repeats)) >= len(prefix) * (repeats - 8)
