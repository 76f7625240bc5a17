"""LoRAs on the command line: they change the video as they should, or nothing starts."""

import json

import pytest
import torch
from safetensors.torch import save_file

from swift_core.cli.main import main
from swift_core.media.pictures import save_picture
from swift_core.media.video_read import read_video
from swift_core.precision import FP32
from swift_core.stages.runtime import Runtime
from swift_core.weights.build import save_checkpoint
from swift_core.weights.model_set import open_model_set
from swift_core.weights.seeded import save_model_set, seeded_model_set
from tests.loras import make_factors, merged_by_hand, spelled
from tests.sparse import write_sparse

SMALL = ["--size", "128x64", "--pixel-frames", "9", "--steps", "1", "--motion-steps", "1"]
LAYERS = ["blocks.0.self_attn.v", "blocks.1.ffn.2", "head.head"]


@pytest.fixture(autouse=True)
def _random_weights(monkeypatch, tmp_path):
    """The built-in set without its files: small, fast, and equal everywhere."""
    monkeypatch.setattr("swift_core.weights.bundled.BUNDLED_SET", tmp_path / "not bundled")


@pytest.fixture
def generate(tmp_path):
    picture = tmp_path / "picture.png"
    save_picture(torch.rand(50, 70, 3, generator=torch.Generator().manual_seed(0)), picture)

    def run(*words, output="out.mkv"):
        given = ["--image", picture, "--prompt", "zoom in", "--output", tmp_path / output]
        given += ["--codec", "ffv1", "--quiet", *SMALL]
        return main([str(word) for word in ("generate", *given, *words)])

    return run


@pytest.fixture
def lora(tmp_path):
    """A LoRA for Stage II of the built-in set, and the factors that are in it."""
    factors = make_factors(seeded_model_set().detail.load(FP32), layers=LAYERS)
    tensors = spelled(factors, lambda name: f"diffusion_model.{name}", "lora_down", "lora_up")
    save_file(tensors, tmp_path / "lora.safetensors")
    return tmp_path / "lora.safetensors", factors


def test_a_lora_makes_the_video_that_merged_weights_make(generate, lora, tmp_path, capsys):
    path, factors = lora
    report = tmp_path / "report.json"
    words = ["--lora", f"detail={path}:0.5", "--lora", f"detail={path}:0.25", "--report", report]
    assert generate(output="without.mkv") == 0
    assert generate(*words, output="with.mkv") == 0
    folder = tmp_path / "set"
    save_model_set(seeded_model_set(), folder)
    detail = open_model_set(folder).detail.load(FP32)
    merged = merged_by_hand(detail.state_dict(), factors, 0.75)
    detail.load_state_dict({name: value.float() for name, value in merged.items()})
    save_checkpoint(detail, folder / "detail.safetensors")
    assert generate("--models", folder, output="merged.mkv") == 0
    without, with_lora, by_hand = (
        read_video(tmp_path / f"{name}.mkv").frames for name in ("without", "with", "merged")
    )
    # Weights that differ in fp32's last bits: here and there a pixel is rounded the other way.
    torch.testing.assert_close(with_lora, by_hand, rtol=0, atol=1.01 / 255)
    assert (with_lora != by_hand).double().mean() < 1e-3
    assert (with_lora - without).abs().mean() > 2 / 255
    (first, second) = json.loads(report.read_text())["models"]["loras"]["detail"]
    assert first == {
        "file": str(path),
        "strength": 0.5,
        "parameters": 3,
        "unmatched": 0,
        "first_unmatched": [],
    }
    assert second["strength"] == 0.25
    assert "Traceback" not in capsys.readouterr().err


def test_keys_that_match_nothing_are_told_while_it_runs(generate, lora, caplog):
    path, _ = lora
    spare = {"blocks.7.diff_m": torch.zeros(1, 6, 192), "head.head.diff_b": torch.ones(192)}
    save_file(spare, path)
    assert generate("--lora", f"detail={path}") == 0
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{path}: 1 of 2 keys match nothing in this model and are left out: blocks.7.diff_m."
    )


def test_a_plan_names_loras_and_their_strengths(lora, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Runtime, "load", lambda *_: pytest.fail("a model was loaded"))
    path, _ = lora
    folder = tmp_path / "set"
    save_model_set(seeded_model_set(), folder)
    words = ["plan", "--models", str(folder), "--size", "512x320", "--lora", f"detail={path}:-0.5"]
    assert main(words) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "loras     detail: lora.safetensors at -0.5, changes 3 parameters"
    assert main([*words, "--lora", f"detail={path}", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [found["strength"] for found in data["loras"]["detail"]] == [-0.5, 1.0]
    assert main(["plan", "--size", "512x320", "--models", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loras"] == {}


def test_a_plan_counts_the_bytes_of_loras(lora, tmp_path, capsys):
    path, factors = lora
    folder = tmp_path / "set"
    save_model_set(seeded_model_set(), folder)

    def refining(*words):
        given = ["--models", str(folder), "--size", "512x320", "--memory", "8"]
        assert main(["plan", "--json", *given, *words]) == 0
        return json.loads(capsys.readouterr().out)["memory"]["stages"]["refine"]

    # In 16 bits; the head is an island in fp32, and added to. Of the blocks the larger one counts.
    larger = max(sum(x.numel() for x in factors[layer]) for layer in LAYERS if layer[:5] == "block")
    layers = seeded_model_set().detail.config.layers
    more = refining("--lora", f"detail={path}")["device_nbytes"] - refining()["device_nbytes"]
    assert more == 2 * larger * layers
    wide = {
        f"blocks.39.ffn.0.lora_{side}.weight": shape
        for side, shape in {"A": (64, 5120), "B": (13824, 64)}.items()
    }
    high = write_sparse(tmp_path / "high.safetensors", wide)
    said = []
    for words in ((), ("--lora", f"motion_high={high}")):
        assert main(["plan", "--json", "--memory", "60", *words]) == 0
        said.append(json.loads(capsys.readouterr().out)["memory"]["stages"]["motion"])
    assert said[1]["device_nbytes"] - said[0]["device_nbytes"] == 40 * 2 * 64 * (5120 + 13824)


def test_a_plan_without_models_has_the_published_ones(tmp_path, capsys):
    shapes = {"blocks.39.self_attn.q.diff_b": (5120,), "some.diff": (3,)}
    path = write_sparse(tmp_path / "high.safetensors", shapes)
    assert main(["plan", "--lora", f"motion_high={path}", "--lora", f"motion_low={path}:0"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "loras     motion_high: high.safetensors at 1, changes 1 parameters; 1 keys match nothing",
        "          motion_low: high.safetensors at 0, changes 1 parameters; 1 keys match nothing",
    ]
    assert main(["plan", "--lora", f"detail={path}"]) == 2
    said = capsys.readouterr().err
    assert "It fits motion_high and motion_low." in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("detail", ["'detail' is no LoRA", "detail=turbo.safetensors:0.8"]),
        ("=x.safetensors", ["'=x.safetensors' is no LoRA; write it like"]),
        ("detail=", ["'detail=' is no LoRA"]),
        ("text=x.safetensors", ["x.safetensors is to go onto 'text'", "motion_low, detail"]),
        ("detail=nowhere.safetensors:0.5", ["nowhere.safetensors does not exist"]),
        ("detail=nowhere:nan", ["nowhere:nan does not exist"]),
        ("detail=C:\\nowhere:-.5", ["nowhere does not exist"]),
        ("detail={}:5000", ["the strength of", "is 5000, but it must be from -1000 to 1000"]),
        ("motion_high={}", ["does not fit a DiT with 100 input", "It fits detail."]),
        ("detail={}/../set/motion_vae.safetensors", ["VAE", "detail", "motion_vae or detail_vae"]),
        ("detail={}/../wide.safetensors", ["for Wan2.2-TI2V-5B, rank 8", "width 192"]),
        ("detail={}/../flux.safetensors", ["is a LoRA, which cannot be used: it was not made for"]),
        ("detail={}/../dora.safetensors", ["is a DoRA, which cannot be used", "LoraLoaderModelO"]),
    ],
)
@pytest.mark.parametrize("command", ["generate", "plan"])
def test_what_cannot_work_is_refused_before_anything_runs(
    generate, lora, tmp_path, monkeypatch, capsys, command, words, expected
):
    monkeypatch.setattr(Runtime, "load", lambda *_: pytest.fail("a model was loaded"))
    path, _ = lora
    save_model_set(seeded_model_set(), tmp_path / "set")
    layer = "blocks.0.self_attn.q"
    wide = {f"{layer}.lora_A.weight": (8, 3072), f"{layer}.lora_B.weight": (3072, 8)}
    write_sparse(tmp_path / "wide.safetensors", wide)
    write_sparse(tmp_path / "flux.safetensors", {"double_blocks.0.lora_A.weight": (8, 3072)})
    write_sparse(tmp_path / "dora.safetensors", {f"{layer}.dora_scale": (1, 3072), **wide})
    given = ["--lora", words.replace("{}/..", str(tmp_path)).format(path), "--models"]
    given.append(str(tmp_path / "set"))
    before = sorted(tmp_path.rglob("*"))
    assert (generate(*given) if command == "generate" else main(["plan", *given])) == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith("swift_core: ")
    assert sentence.endswith(".")
    for part in expected:
        assert part in sentence
    assert sorted(tmp_path.rglob("*")) == before


def test_a_lora_is_not_overwritten(generate, lora, capsys):
    path, _ = lora
    words = ["--lora", f"detail={path}", "--overwrite", "--save-latent", path]
    assert generate(*words) == 2
    assert f"--lora detail={path} and --save-latent both name" in capsys.readouterr().err
