"""LoRAs of a set: each DiT gets its own, and what does not fit is sent where it belongs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from swift_core.errors import CheckpointError
from swift_core.model.config import WAN22_REFERENCE_5B, WAN22_TI2V_5B
from swift_core.precision import BF16, FP32
from swift_core.weights.lora import Lora, match_lora, read_lora
from swift_core.weights.lora_slots import open_lora
from swift_core.weights.model_set import add_loras, loras_of, open_model_set
from swift_core.weights.seeded import save_model_set, seeded_model_set
from swift_core.weights.set_file import SetFile, SetLora, read_set_file, write_set_file
from tests.loras import make_factors, merged_by_hand, spelled
from tests.models import slot, small_dit, small_models
from tests.sparse import write_sparse

Q = "blocks.0.self_attn.q"


@pytest.fixture
def folder(tmp_path):
    save_model_set(seeded_model_set(), tmp_path / "set")
    return tmp_path / "set"


def put(folder, loras, **files):
    """Write LoRAs into a set's folder, and name them in its set.json."""
    for name, factors in files.items():
        save_file(spelled(factors), folder / f"{name}.safetensors")
    path = folder / "set.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "loras": loras}))
    return folder


def factors_for(models, name, seed=0):
    return make_factors(getattr(models, name).load(FP32), layers=[Q, "head.head"], seed=seed)


def same(module, expected):
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name].double(), rtol=1e-6, atol=1e-6)


def test_set_json_gives_each_expert_its_own(folder):
    models = open_model_set(folder)
    names = ("motion_high", "motion_low", "detail")
    files = {f"for_{name}": factors_for(models, name, seed) for seed, name in enumerate(names)}
    loras = {
        "motion_high": [{"file": "for_motion_high.safetensors"}],
        "motion_low": [{"file": "for_motion_low.safetensors", "strength": 0.5}],
        "detail": [{"file": "for_detail.safetensors", "strength": 2}] * 2,
    }
    opened = open_model_set(put(folder, loras, **files))
    for name, scale in (("motion_high", 1.0), ("motion_low", 0.5), ("detail", 4.0)):
        before = getattr(models, name).load(FP32).state_dict()
        same(getattr(opened, name).load(FP32), merged_by_hand(before, files[f"for_{name}"], scale))
    said = {name: [match.as_data() for match in found] for name, found in loras_of(opened).items()}
    assert {name: [data["strength"] for data in found] for name, found in said.items()} == {
        "motion_high": [1.0],
        "motion_low": [0.5],
        "detail": [2.0, 2.0],
    }
    assert said["detail"][0]["file"] == str(folder / "for_detail.safetensors")
    assert opened.motion_high.config == models.motion_high.config
    assert loras_of(models) == {}


def test_further_loras_come_beside_those_of_the_set(folder):
    """All are added to the weights as they are in the file, and rounded once."""
    models = open_model_set(folder)
    first, second = (factors_for(models, "detail", seed) for seed in (1, 2))
    opened = open_model_set(put(folder, {"detail": [{"file": "a.safetensors"}]}, a=first, b=second))
    lora = open_lora("detail", folder / "b.safetensors", -0.5)
    both = add_loras(opened, {"detail": [lora]})
    before = models.detail.load(FP32).state_dict()
    expected = merged_by_hand(merged_by_hand(before, first), second, -0.5)
    same(both.detail.load(FP32), expected)
    assert [match.lora.strength for match in loras_of(both)["detail"]] == [1.0, -0.5]
    assert len(loras_of(opened)["detail"]) == 1
    in_two = add_loras(add_loras(models, {"detail": [lora]}), {"detail": [lora]})
    at_once = add_loras(models, {"detail": [lora, lora]})
    one, other = (made.detail.load(BF16).state_dict() for made in (in_two, at_once))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_slot_names_the_files_of_its_loras(folder):
    """So they are read ahead with the model's own."""
    models = open_model_set(folder)
    factors = factors_for(models, "detail")
    opened = open_model_set(put(folder, {"detail": [{"file": "a.safetensors"}]}, a=factors))
    assert opened.detail.files == (*models.detail.files, folder / "a.safetensors")
    assert opened.motion_high.files == models.motion_high.files
    lora = open_lora("detail", folder / "a.safetensors", 0.5)
    both = add_loras(opened, {"detail": [lora]})
    assert both.detail.files == (*opened.detail.files, folder / "a.safetensors")


def test_set_files_with_loras_are_read_as_written(tmp_path):
    content = SetFile(
        name="a",
        description="b",
        slots=dict.fromkeys(
            ("text", "motion_high", "motion_vae", "detail", "detail_vae"), "x.safetensors"
        ),
        loras={
            "detail": (SetLora(file="sub/a.safetensors", strength=-0.5), SetLora(file="b")),
            "motion_low": (),
        },
    )
    write_set_file(tmp_path, content)
    assert read_set_file(tmp_path) == content
    write_set_file(tmp_path, replace(content, loras={}))
    assert "loras" not in json.loads((tmp_path / "set.json").read_text())


@pytest.mark.parametrize(
    ("loras", "said"),
    [
        ([], "loras must be a JSON object"),
        ({"text": []}, "text is none of detail, motion_high, motion_low"),
        ({"detail": {}}, "loras: detail must be a list of JSON objects"),
        ({"detail": ["a.safetensors"]}, "a LoRA of detail must be a JSON object"),
        ({"detail": [{}]}, r"a LoRA of detail must name a file inside the folder, without \.\."),
        ({"detail": [{"file": "../a"}]}, "a LoRA of detail must name a file inside the folder"),
        ({"detail": [{"file": "C:\\a"}]}, "a LoRA of detail must name a file inside the folder"),
        ({"detail": [{"file": "a", "alpha": 1}]}, "alpha is none of file, strength"),
        ({"detail": [{"file": "a", "strength": "1"}]}, "strength must be a finite number"),
        ({"detail": [{"file": "a", "strength": float("nan")}]}, "strength must be a finite number"),
    ],
)
def test_hostile_loras_in_set_json_are_refused(folder, loras, said):
    with pytest.raises(CheckpointError, match=rf"set\.json is wrong: .*{said}.*; correct it, or"):
        open_model_set(put(folder, loras))


def test_a_lora_of_a_set_that_does_not_fit_is_refused_when_the_set_is_opened(folder):
    loras = {"motion_high": [{"file": "a.safetensors"}]}
    put(folder, loras, a=factors_for(open_model_set(folder), "detail"))
    with pytest.raises(CheckpointError) as refusal:
        open_model_set(folder)
    said = str(refusal.value)
    assert said.startswith(
        f"motion_high: {folder / 'a.safetensors'} is a LoRA for a model of width"
    )
    assert "does not fit a DiT with 100 input channels (2 blocks, width 128)" in said
    assert said.endswith("choose the LoRA that was made for this model. It fits detail.")
    (folder / "a.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"a\.safetensors does not exist; check the name"):
        open_model_set(folder)


def test_a_strength_out_of_all_proportion_is_refused(folder):
    loras = {"detail": [{"file": "a.safetensors", "strength": 5000}]}
    put(folder, loras, a=factors_for(open_model_set(folder), "detail"))
    with pytest.raises(CheckpointError, match=r"the strength of .* is 5000, but it must be from"):
        open_model_set(folder)


def lora_for(path, width):
    shapes = {f"{Q}.lora_A.weight": (8, width), f"{Q}.lora_B.weight": (width, 8)}
    return Lora(file=read_lora(write_sparse(path, shapes)))


def test_a_lora_is_told_where_it_fits(tmp_path):
    path = tmp_path / "lora.safetensors"
    small = small_models()
    wide = small_dit(dim=96, in_channels=16, layers=1)
    models = replace(small, detail=slot(wide.config, wide))
    lora = Lora(file=read_lora(write_sparse(path, {f"{Q}.diff_b": (48,), f"{Q}.diff": (48, 48)})))
    with pytest.raises(CheckpointError, match=r"model\. It fits motion_high and motion_low\.$"):
        add_loras(models, {"detail": [lora]})
    with pytest.raises(CheckpointError, match=r"^detail: .*that was made for this model\.$"):
        add_loras(models, {"detail": [lora_for(path, 12)]})
    lora = lora_for(path, 48)
    said = (
        rf"{path.name} is to go onto motion_low, but this set has none: its motion_high works at "
        r"all noise levels\. It fits motion_high\.$"
    )
    with pytest.raises(CheckpointError, match=said):
        add_loras(replace(models, motion_low=None), {"motion_low": [lora]})


@pytest.mark.parametrize(
    ("name", "slots"),
    [
        ("detail", "motion_high or motion_low or detail"),
        ("motion_vae", "motion_vae or detail_vae"),
        ("text", "text"),
    ],
)
def test_a_model_in_place_of_a_lora_is_told_where_it_belongs(folder, name, slots):
    files = json.loads((folder / "set.json").read_text())["slots"]
    said = (
        rf"is a .*, but a LoRA is needed for detail: it is a model of a set, to be named in its "
        rf"slots as {slots}\.$"
    )
    with pytest.raises(CheckpointError, match=said):
        open_lora("detail", folder / files[name], 1.0)


def test_a_slot_that_takes_no_lora_is_refused():
    said = (
        r"a is to go onto 'text\\n', but LoRAs go onto motion_high, motion_low, detail; name one "
        r"of these\.$"
    )
    with pytest.raises(CheckpointError, match=said):
        open_lora("text\n", Path("a"), 1.0)


def test_loras_of_the_5b_model_fit_its_form_with_reference_channels(tmp_path):
    """All but the patch embedding is of the same shape; nothing is loaded."""
    lora = lora_for(tmp_path / "lora.safetensors", 3072)
    assert match_lora(lora, WAN22_REFERENCE_5B).deltas.keys() == {f"{Q}.weight"}
    assert match_lora(lora, WAN22_TI2V_5B).deltas.keys() == {f"{Q}.weight"}
    shapes = {"patch_embedding.diff": (3072, 48, 1, 2, 2)}
    lora = Lora(file=read_lora(write_sparse(tmp_path / "other.safetensors", shapes)))
    assert match_lora(lora, WAN22_TI2V_5B).deltas
    with pytest.raises(CheckpointError, match=r"patch_embedding\.weight is \[3072, 96, 1, 2, 2\]"):
        match_lora(lora, WAN22_REFERENCE_5B)
