"""The published checkpoints by their full lists of tensors, as Wan's own code makes them.

``tests/data/published_tensors.json`` holds the names and sizes of all tensors of each model, made
by Wan's classes on PyTorch's meta device, each with its source. ``blocks.{0-29}.x`` stands for 30
names.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from swift_core.model.config import WAN22_I2V_A14B, WAN22_TI2V_5B
from swift_core.vae.config import WAN21_VAE, WAN22_VAE
from swift_core.weights.checkpoint import Kind
from swift_core.weights.detect import detect, expected_shapes
from swift_core.weights.headers import read_header
from swift_core.weights.sizes import WAN21_1_3B
from tests.sparse import write_sparse

DATA = json.loads((Path(__file__).parents[1] / "data" / "published_tensors.json").read_text())

OURS = {
    "Wan2.2-TI2V-5B": WAN22_TI2V_5B,
    "Wan2.2-I2V-A14B expert": WAN22_I2V_A14B,
    "Wan2.1-T2V-1.3B": WAN21_1_3B,
    "Wan2.2 VAE": WAN22_VAE,
    "Wan2.1 VAE": WAN21_VAE,
}

SCALED = re.compile(r"blocks\.\d+\.((self|cross)_attn\.[qkvo]|ffn\.[02])\.weight")


def tensors(model):
    """Write out the list of a model's tensors."""
    whole = {}
    for name, shape in DATA[model]["tensors"].items():
        match = re.search(r"\{(\d+)-(\d+)\}", name)
        numbers = range(int(match[1]), int(match[2]) + 1) if match else (0,)
        for number in numbers:
            whole[re.sub(r"\{.*\}", str(number), name)] = tuple(shape)
    assert len(whole) == DATA[model]["count"]
    return whole


def look(path, shapes, **how):
    return detect(read_header(write_sparse(path / "x.safetensors", shapes, **how)))


@pytest.mark.parametrize("model", OURS)
def test_our_modules_have_exactly_these_tensors(model):
    assert dict(expected_shapes(OURS[model])) == tensors(model)


@pytest.mark.parametrize("model", DATA)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_every_published_file_is_known_and_complete(tmp_path, model, prefix):
    shapes = {f"{prefix}{name}": shape for name, shape in tensors(model).items()}
    checkpoint = look(tmp_path, shapes)
    known = {
        "Wan2.2-I2V-A14B expert": "Wan2.2-I2V-A14B expert (high or low noise: their headers are "
        "alike)",
        "UMT5-XXL encoder": "UMT5 text encoder",
    }
    assert checkpoint.name == known.get(model, model)
    assert checkpoint.missing == ()
    assert checkpoint.config is not None
    if model in OURS:
        assert checkpoint.config == OURS[model]
        assert checkpoint.is_complete
    if model == "Wan2.1-I2V-14B":
        assert checkpoint.obstacle == "its Wan2.1 image encoder is not supported"


def test_the_reference_form_differs_in_one_tensor(tmp_path):
    shapes = tensors("Wan2.2-TI2V-5B") | {"patch_embedding.weight": (3072, 96, 1, 2, 2)}
    checkpoint = look(tmp_path, shapes)
    assert checkpoint.config == replace(WAN22_TI2V_5B, in_channels=96)
    assert checkpoint.obstacle is None


@pytest.mark.parametrize("model", ["Wan2.2-TI2V-5B", "Wan2.2-I2V-A14B expert"])
@pytest.mark.parametrize(
    ("part", "shape", "marks"),
    [
        (".scale_weight", (), {"scaled_fp8": ("F8_E4M3", (0,))}),  # Comfy-Org's
        (".scale_weight", (1,), {"scaled_fp8": ("F8_E4M3", (2,))}),  # Kijai's
        (".weight_scale", (), {}),  # ComfyUI's second generation
        (".weight_scale", (-1, 1), {}),  # LightX2V's, one for each output
    ],
)
def test_published_8_bit_forms_are_usable(tmp_path, model, part, shape, marks):
    shapes = dict(marks)
    for name, size in tensors(model).items():
        shapes[name] = size
        if SCALED.fullmatch(name):
            shapes[name] = ("F8_E4M3", size)
            scale = tuple(size[0] if side == -1 else side for side in shape)
            shapes[name.removesuffix(".weight") + part] = ("F32", scale)
    checkpoint = look(tmp_path, shapes)
    assert checkpoint.kind is Kind.DIT
    assert checkpoint.is_complete
    assert checkpoint.obstacle is None
    assert checkpoint.quantisation.startswith("scaled per ")
    assert checkpoint.parameters == look(tmp_path, tensors(model)).parameters
