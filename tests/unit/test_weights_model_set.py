"""Sets of models: opened from a folder, checked against each other before a weight is read."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from swift_core.errors import CheckpointError, OutputError, ScheduleError
from swift_core.flow.recipe import Recipe, SolverName
from swift_core.model.config import WAN22_I2V_A14B, WAN22_REFERENCE_5B, WAN22_TI2V_5B
from swift_core.precision import BF16, FP32
from swift_core.text.words import WordConfig
from swift_core.vae.config import WAN21_VAE, WAN22_VAE
from swift_core.weights import set_file
from swift_core.weights.detect import expected_shapes
from swift_core.weights.model_set import open_model_set
from swift_core.weights.notes import describe_metadata
from swift_core.weights.seeded import (
    SEEDED_DETAIL,
    SEEDED_MOTION,
    SEEDED_VAE,
    SEEDED_WORDS,
    save_model_set,
    seeded_model_set,
)
from tests.sparse import write_sparse

SLOTS = ("text", "motion_high", "motion_low", "motion_vae", "detail", "detail_vae")
WORDS = WordConfig(buckets=256, text_dim=4096)
FULL = {
    "text": WORDS,
    "motion_high": WAN22_I2V_A14B,
    "motion_low": WAN22_I2V_A14B,
    "motion_vae": WAN21_VAE,
    "detail": WAN22_REFERENCE_5B,
    "detail_vae": WAN22_VAE,
}


def write_set(folder, configs, **content):
    """Write headers of models, and set.json; nothing in it beside the slots unless given."""
    write_files(folder, configs)
    slots = {slot: f"{slot}.safetensors" for slot in configs}
    (folder / "set.json").write_text(json.dumps({"slots": slots, **content}))
    return folder


def write_files(folder, configs):
    for name, config in configs.items():
        path = folder / f"{name}.safetensors"
        write_sparse(path, expected_shapes(config), metadata=describe_metadata(config))
    return folder


def test_a_saved_set_opens_as_the_same_models(tmp_path):
    models = seeded_model_set(3)
    models = replace(
        models,
        motion_recipe=Recipe(steps=7, cfg=2.5, sigma_shift=3.0, solver=SolverName.UNIPC),
        boundary=0.8,
        carry=0.25,
    )
    save_model_set(models, tmp_path / "a" / "b")
    opened = open_model_set(tmp_path / "a" / "b")
    for name in ("name", "description", "motion_recipe", "detail_recipe", "boundary", "carry"):
        assert getattr(opened, name) == getattr(models, name)
    for slot in SLOTS:
        ours, theirs = getattr(models, slot), getattr(opened, slot)
        assert ours.config == theirs.config
        for precision in (FP32, BF16):
            expected = ours.load(precision).state_dict()
            found = theirs.load(precision).state_dict()
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in expected)
            assert all(found[name].dtype == expected[name].dtype for name in expected)
    assert opened.motion_vae is opened.detail_vae
    assert opened.text.source == str(tmp_path / "a" / "b" / "text.safetensors")
    assert len(list((tmp_path / "a" / "b").iterdir())) == 6


def test_a_set_with_one_motion_model_is_saved_without_the_other(tmp_path):
    save_model_set(replace(seeded_model_set(), motion_low=None), tmp_path)
    assert open_model_set(tmp_path).motion_low is None


def test_saving_where_there_is_no_place_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="its folder cannot be made"):
        save_model_set(seeded_model_set(), tmp_path / "file" / "set")
    (tmp_path / "set" / "set.json").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"set\.json cannot be replaced"):
        save_model_set(seeded_model_set(), tmp_path / "set")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "write_text", full)
    with pytest.raises(OutputError, match=r"set\.json cannot be written: .*No space left"):
        save_model_set(seeded_model_set(), tmp_path / "other")


def test_a_set_of_published_models_opens_at_no_cost(tmp_path):
    models = open_model_set(write_set(tmp_path, FULL))
    assert models.name == tmp_path.name
    assert models.description == f"The models in {tmp_path.name}."
    assert {slot: getattr(models, slot).config for slot in SLOTS} == FULL
    usual = Recipe(steps=4, cfg=1.0, sigma_shift=5.0, solver=SolverName.EULER)
    assert models.motion_recipe == models.detail_recipe == usual
    assert models.boundary == 0.9
    assert models.carry == 0


def test_set_json_says_how_models_want_to_be_sampled(tmp_path):
    models = open_model_set(
        write_set(
            tmp_path,
            FULL,
            name="Ours",
            description="Made by us.",
            motion={"steps": 20, "cfg": 3.5},
            detail={"sigma_shift": 3, "solver": "renoise"},
            boundary=0.875,
        )
    )
    assert (models.name, models.description, models.boundary) == ("Ours", "Made by us.", 0.875)
    motion, detail = models.motion_recipe, models.detail_recipe
    assert (motion.steps, motion.cfg, motion.sigma_shift) == (20, 3.5, 5.0)
    assert (detail.steps, detail.sigma_shift, detail.solver) == (4, 3.0, SolverName.RENOISE)


@pytest.mark.parametrize("only", ["motion_vae", "detail_vae"])
def test_one_vae_serves_both_stages(tmp_path, only):
    configs = {
        "text": WORDS,
        "motion_high": WAN22_TI2V_5B,
        "detail": WAN22_REFERENCE_5B,
        only: WAN22_VAE,
    }
    models = open_model_set(write_set(tmp_path, configs))
    assert models.motion_vae is models.detail_vae
    assert models.motion_low is None


def test_what_is_no_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere is no folder; name a folder with a set"):
        open_model_set(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("configs", "said"),
    [
        (
            {"motion_high": WAN22_TI2V_5B, "motion_low": WAN22_TI2V_5B},
            r"Stage I's DiT \(.*motion_high.safetensors\) makes latents of 48 channels, but its "
            r"VAE \(.*motion_vae.safetensors\) has 16; choose the VAE that belongs to the DiT",
        ),
        (
            {"motion_high": replace(WAN22_I2V_A14B, in_channels=20)},
            r"takes 20 channels; it must take 16 \(its latent\) or 36 \(latent, 4 mask channels",
        ),
        (
            {"motion_low": replace(WAN22_I2V_A14B, layers=39)},
            "Stage I's experts are of different architectures .*; use two experts of one model",
        ),
        (
            {"detail_vae": WAN21_VAE},
            "Stage II's DiT .* makes latents of 48 channels, but its VAE .* has 16; choose",
        ),
        (
            {"detail": replace(WAN22_TI2V_5B, in_channels=100)},
            r"takes 100 channels; it must take 48 \(its latent\) or 96 \(latent and reference\)",
        ),
        (
            {"text": SEEDED_WORDS},
            r"Stage I's DiT .* reads text embeddings 4096 wide, but the text encoder \(.*text.saf"
            r"etensors\) makes them 64 wide; choose the text encoder that belongs to the DiT",
        ),
        (
            {"detail": replace(WAN22_REFERENCE_5B, text_dim=64)},
            "Stage II's DiT .* reads text embeddings 64 wide",
        ),
        (
            {"detail": WAN22_VAE},
            r"detail.safetensors is a Wan2.2 VAE, but Stage II \(detail\) needs a DiT with 48 or "
            "96 input channels: name it under motion_vae or detail_vae",
        ),
        (
            {"motion_vae": WORDS},
            r"is a word text encoder, but Stage I \(motion_vae\) needs its DiT's VAE: name it "
            "under text",
        ),
    ],
)
def test_models_that_do_not_fit_are_refused(tmp_path, configs, said):
    with pytest.raises(CheckpointError, match=said):
        open_model_set(write_set(tmp_path, {**FULL, **configs}))


def test_a_file_of_no_use_in_a_set_is_refused(tmp_path):
    write_set(tmp_path, FULL)
    shapes = {"blocks.0.self_attn.q.lora_A.weight": (8, 3072)}
    write_sparse(tmp_path / "detail.safetensors", shapes)
    with pytest.raises(
        CheckpointError, match=r"is a LoRA, but Stage II .* it is no model of a set"
    ):
        open_model_set(tmp_path)


def test_a_file_that_cannot_be_used_is_refused_before_the_run(tmp_path):
    write_set(tmp_path, FULL)
    shapes = dict(expected_shapes(WAN22_VAE))
    del shapes["conv1.bias"]
    write_sparse(tmp_path / "detail_vae.safetensors", shapes)
    with pytest.raises(CheckpointError, match=r"is not whole: Wan2.2 VAE: .* missing: conv1.bias"):
        open_model_set(tmp_path)
    write_sparse(
        tmp_path / "motion_low.safetensors",
        expected_shapes(replace(WAN22_I2V_A14B, in_channels=16)),
    )
    with pytest.raises(CheckpointError, match="cannot be used: it makes videos from text alone"):
        open_model_set(tmp_path)


GOOD = {"slots": {slot: f"{slot}.safetensors" for slot in SLOTS}}
OUTSIDE = "must name a file inside the folder, without"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "it cannot be read as JSON"),
        ("[" * 100_000, "it cannot be read as JSON"),
        (" " * (1 << 20) + "{}", "it is longer than 1048576 bytes"),
        ([], "it must be a JSON object"),
        ({}, "slots must be a JSON object"),
        (
            {**GOOD, "script\x1b": 1},
            r"script\\x1b is none of boundary, carry, description, detail, loras",
        ),
        ({**GOOD, "name": "a\x1b[31m"}, "name must be one line of text, of up to 2000 printable"),
        ({**GOOD, "description": "x" * 2001}, "description must be one line of text"),
        ({**GOOD, "name": 3}, "name must be one line of text"),
        ({**GOOD, "boundary": 1.5}, "boundary is 1.5; a sigma is between 0 and 1"),
        ({**GOOD, "carry": 1.5}, "carry is 1.5; a share is between 0 and 1"),
        ({**GOOD, "carry": "all"}, "carry must be a finite number"),
        ({**GOOD, "boundary": float("nan")}, "boundary must be a finite number"),
        ({**GOOD, "boundary": True}, "boundary must be a finite number"),
        ({**GOOD, "motion": 4}, "motion must be a JSON object"),
        ({**GOOD, "motion": {"step": 4}}, "step is none of cfg, sigma_shift, solver, steps"),
        ({**GOOD, "motion": {"steps": 4.0}}, "motion: steps must be a whole number of up to 10000"),
        ({**GOOD, "motion": {"steps": 10**9}}, "motion: steps must be a whole number"),
        ({**GOOD, "detail": {"cfg": 10**400}}, "cfg must be a finite number"),
        ({**GOOD, "detail": {"sigma_shift": "5"}}, "sigma_shift must be a finite number"),
        ({**GOOD, "detail": {"solver": []}}, "solver must be one of euler, renoise, unipc"),
        ({"slots": {"text": "a", "extra": "b"}}, "extra is none of detail, detail_vae, motion_hi"),
        ({"slots": {"text": "a.safetensors"}}, "slots has no motion_high; Stage I needs an image-"),
        ({"slots": {"text": ""}}, f"slot text {OUTSIDE}"),
        ({"slots": {"text": 3}}, f"slot text {OUTSIDE}"),
        ({"slots": {"text": "/etc/passwd"}}, f"slot text {OUTSIDE}"),
        ({"slots": {"text": "../other"}}, f"slot text {OUTSIDE}"),
        ({"slots": {"text": "a/../../b"}}, f"slot text {OUTSIDE}"),
        ({"slots": {"text": "a\\..\\..\\b"}}, f"slot text {OUTSIDE}"),
        ({"slots": {"text": "C:\\models\\b"}}, f"slot text {OUTSIDE}"),
        ({"slots": {"text": "\\\\server\\share\\b"}}, f"slot text {OUTSIDE}"),
        ({"slots": {"text": "b:stream"}}, f"slot text {OUTSIDE}"),
        ({"slots": {"text": "a\0b"}}, f"slot text {OUTSIDE}"),
        ({"slots": {"text": "x" * 501}}, f"slot text {OUTSIDE}"),
    ],
)
def test_a_hostile_set_json_is_refused(tmp_path, content, said):
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "set.json").write_text(text)
    with pytest.raises(CheckpointError, match=rf"set\.json is wrong: .*{said}.*; correct it, or"):
        open_model_set(tmp_path)


def test_an_impossible_recipe_is_refused(tmp_path):
    (tmp_path / "set.json").write_text(json.dumps({**GOOD, "motion": {"steps": 0}}))
    with pytest.raises(ScheduleError, match="steps is 0; at least 1 is needed"):
        open_model_set(tmp_path)


def test_a_set_json_that_is_no_file_is_refused(tmp_path):
    (tmp_path / "set.json").mkdir()
    with pytest.raises(CheckpointError, match=r"set\.json is wrong: it cannot be read"):
        open_model_set(tmp_path)


def test_files_in_folders_of_the_set_may_be_named(tmp_path):
    write_set(tmp_path, FULL)
    (tmp_path / "sub").mkdir()
    (tmp_path / "text.safetensors").rename(tmp_path / "sub" / "words.safetensors")
    slots = {**GOOD["slots"], "text": "sub/words.safetensors"}
    (tmp_path / "set.json").write_text(json.dumps({"slots": slots}))
    assert open_model_set(tmp_path).text.config == WORDS


def test_a_missing_file_of_a_set_is_named(tmp_path):
    write_set(tmp_path, FULL)
    (tmp_path / "detail.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"detail\.safetensors does not exist"):
        open_model_set(tmp_path)


CLEAR = {
    "a14b and reference": (
        {"a": WORDS, "b": WAN22_I2V_A14B, "c": WAN21_VAE, "d": WAN22_REFERENCE_5B, "e": WAN22_VAE},
        ("a", "b", "c", "d", "e"),
    ),
    "one 5B for all": ({"e": WORDS, "d": WAN22_TI2V_5B, "c": WAN22_VAE}, ("e", "d", "c", "d", "c")),
    "plain and reference": (
        {"a": WORDS, "b": WAN22_TI2V_5B, "c": WAN22_REFERENCE_5B, "d": WAN22_VAE},
        ("a", "b", "d", "c", "d"),
    ),
    "our own": (
        {"a": SEEDED_WORDS, "b": SEEDED_MOTION, "c": SEEDED_VAE, "d": SEEDED_DETAIL},
        ("a", "b", "c", "d", "c"),
    ),
}


@pytest.mark.parametrize("case", CLEAR)
def test_without_set_json_clear_files_find_their_slots(tmp_path, case):
    configs, order = CLEAR[case]
    write_files(tmp_path, configs)
    write_sparse(tmp_path / "x.safetensors", {"some": (3,)})
    models = open_model_set(tmp_path)
    slots = ("text", "motion_high", "motion_vae", "detail", "detail_vae")
    found = [Path(getattr(models, slot).source).name for slot in slots]
    assert found == [f"{name}.safetensors" for name in order]
    assert models.motion_low is None
    assert "told apart by their headers" in models.description


def test_files_that_cannot_be_told_apart_are_named_with_what_to_write(tmp_path):
    write_files(tmp_path, {**FULL, "text": WAN21_VAE})
    with pytest.raises(CheckpointError) as refusal:
        open_model_set(tmp_path)
    said = str(refusal.value)
    assert "no file is a text encoder (UMT5, or words) for text" in said
    assert "motion_high could be motion_high.safetensors or motion_low.safetensors" in said
    assert "motion_vae could be motion_vae.safetensors or text.safetensors" in said
    form = json.loads(said[said.index("{") : said.rindex("}") + 1])
    assert form["slots"]["detail"] == "detail.safetensors"
    assert form["slots"]["text"] == "?.safetensors"
    assert set(form["slots"]) == set(SLOTS) - {"motion_low"}


def test_an_empty_folder_says_what_is_needed(tmp_path):
    with pytest.raises(CheckpointError, match=r"no file is a DiT with 48 or 96 input channels for"):
        open_model_set(tmp_path)
    assert set_file.SET_FILE == "set.json"
