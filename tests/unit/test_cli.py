"""The command line as a user meets it: what it writes, and how it refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from swift_core.cli import settings
from swift_core.cli.main import main
from swift_core.media.codecs import VideoCodec
from swift_core.media.pictures import save_picture
from swift_core.media.video_read import probe_video, read_video
from swift_core.media.video_write import VideoWriter
from swift_core.stages.runtime import Runtime
from swift_core.vae.config import WAN22_VAE
from swift_core.weights.latents import SavedLatent, load_latent, save_latent
from swift_core.weights.seeded import save_model_set, seeded_model_set

ROOT = Path(__file__).parents[2]
SMALL = ["--size", "128x64", "--pixel-frames", "9", "--steps", "1", "--motion-steps", "1"]


@pytest.fixture(autouse=True)
def _random_weights(monkeypatch, tmp_path):
    """The built-in set without its files: small, fast, and equal everywhere."""
    monkeypatch.setattr("swift_core.weights.bundled.BUNDLED_SET", tmp_path / "not bundled")


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    save_picture(torch.rand(50, 70, 3, generator=torch.Generator().manual_seed(0)), path)
    return path


@pytest.fixture
def generate(tmp_path, picture):
    """Run the command with small settings; later words win over earlier ones."""

    def run(*words, output="out.mp4"):
        given = ["--image", picture, "--prompt", "zoom in", "--output", tmp_path / output]
        return main([str(word) for word in ("generate", *given, *SMALL, "--quiet", *words)])

    return run


def test_little_memory_for_the_vaes_gives_the_same_video(generate, tmp_path):
    size = ("--size", "64x448", "--codec", "ffv1")
    assert generate(*size, output="whole.mkv") == 0
    assert generate(*size, "--vae-memory", "0.032", output="bands.mkv") == 0
    whole, bands = (read_video(tmp_path / name).frames for name in ("whole.mkv", "bands.mkv"))
    # The built-in widths are no multiples of 32: last bits differ, and with them a rounding or two.
    torch.testing.assert_close(bands, whole, rtol=0, atol=1.01 / 255)
    assert (bands != whole).double().mean() < 1e-3


def test_little_memory_for_everything_streams_blocks_and_gives_the_same_video(
    generate, tmp_path, caplog
):
    caplog.set_level("INFO")
    assert generate(output="whole.mkv") == 0
    assert "streamed" not in caplog.text
    assert generate("--memory", "0.01", "--vae-memory", "1", output="streamed.mkv") == 0
    assert "blocks resident, the others streamed" in caplog.text
    assert "behind work" in caplog.text
    whole, streamed = (read_video(tmp_path / name).frames for name in ("whole.mkv", "streamed.mkv"))
    assert torch.equal(streamed, whole)


def test_a_plan_tells_what_a_card_of_that_size_will_hold(capsys):
    assert main(["plan", "--memory", "22", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["memory"]
    assert made["device_nbytes"] <= 22e9
    assert made["stages"]["refine"]["how"] == "all 30 blocks resident"
    # The VAEs have room of their own: to find out that nothing fits them takes long.
    assert main(["plan", "--memory", "4", "--vae-memory", "60"]) == 2
    assert "the DiT takes at least" in capsys.readouterr().err


def test_a_plan_with_a_motion_clip_leaves_stage_one_out(capsys, refuses, tmp_path):
    clip = tmp_path / "motion.mkv"
    write_clip(clip, 9)
    words = ["plan", "--size", "128x64", "--pixel-frames", "9", "--memory", "22", "--json"]
    assert main(words) == 0
    whole = json.loads(capsys.readouterr().out)
    assert main([*words, "--motion", str(clip)]) == 0
    given = json.loads(capsys.readouterr().out)
    assert {"motion", "motion: decode"} <= set(whole["memory"]["stages"])
    assert set(given["memory"]["stages"]) == set(whole["memory"]["stages"]) - {
        "motion",
        "motion: decode",
    }
    assert given["weights_nbytes"]["motion"] == 0
    refuses(lambda: main([*words, "--motion", "nowhere.mp4"]), "nowhere.mp4 does not exist")
    refuses(lambda: main([*words[:4], "5", "--motion", str(clip)]), "more than 5 frames")
    refuses(lambda: main([*words[:4], "13", "--motion", str(clip)]), "9 frames", "13")


def test_a_plan_keeps_the_vaes_to_their_room(capsys, refuses, tmp_path):
    save_model_set(seeded_model_set(), tmp_path / "set")
    words = ["plan", "--models", str(tmp_path / "set"), "--size", "512x320", "--memory", "1"]

    def decode(*more):
        assert main([*words, *more, "--json"]) == 0
        return json.loads(capsys.readouterr().out)["memory"]["stages"]["decode"]

    whole = decode()
    assert (whole["bands"], whole["parks"]) == (1, False)
    less = 0.7 * whole["device_nbytes"]
    banded = decode("--vae-memory", f"{less / 1e9:.4f}")
    assert banded["bands"] > 1 or banded["parks"]
    assert banded["device_nbytes"] < whole["device_nbytes"]
    refuses(lambda: main([*words, "--vae-memory", "0"]), "--vae-memory 0 is no amount of memory")


def test_too_little_memory_is_said_before_anything_runs(generate, refuses):
    refuses(lambda: generate("--vae-memory", "0"), "--vae-memory 0 is no amount of memory")
    refuses(lambda: generate("--memory", "-1"), "--memory -1 is no amount of memory")
    refuses(lambda: generate("--memory", "nan"), "--memory nan is no amount of memory")
    refuses(lambda: generate("--memory", "0.001"), "the DiT takes at least", "0.0 GB are free")
    refuses(lambda: generate("--vae-memory", "0.0001"), "takes at least", "0.0 GB are free")


def write_clip(path, pixel_frames, height=16, width=32):
    with VideoWriter(
        path, codec=VideoCodec.FFV1, frames_per_second=Fraction(16), height=height, width=width
    ) as writer:
        writer.write(torch.rand(pixel_frames, height, width, 3))


@pytest.fixture
def refuses(capsys, monkeypatch, tmp_path):
    """Expect one sentence on standard error, exit status 2, no model run and nothing written."""
    monkeypatch.setattr(Runtime, "load", lambda *_: pytest.fail("a model was loaded"))

    def check(run, *expected):
        before = sorted(tmp_path.rglob("*"))
        assert run() == 2
        printed = capsys.readouterr()
        sentence = printed.err.splitlines()[-1]
        assert sentence.startswith("swift_core: ")
        assert sentence.endswith(".")
        assert "Traceback" not in printed.err
        assert printed.out == ""
        for words in expected:
            assert words in sentence
        assert sorted(tmp_path.rglob("*")) == before

    return check


def test_generate_writes_everything_it_was_asked_for(generate, tmp_path, capsys):
    files = {
        "--save-motion": tmp_path / "new folder" / "motion.mkv",
        "--save-latent": tmp_path / "latent.safetensors",
        "--report": tmp_path / "report.json",
    }
    more = [word for pair in files.items() for word in pair]
    assert generate(*more, "--fps", "30000/1001", "--seed", 3, "--segment-seed", "0=9") == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == str(tmp_path / "out.mp4")
    assert "random weights" in printed.err

    info = probe_video(tmp_path / "out.mp4")
    assert (info.pixel_frames, info.height, info.width) == (9, 64, 128)
    assert info.frames_per_second == Fraction(30000, 1001)
    motion = probe_video(files["--save-motion"])
    assert (motion.pixel_frames, motion.height, motion.width) == (9, 16, 32)
    saved = load_latent(files["--save-latent"])
    assert tuple(saved.latent.shape) == (1, 48, 3, 8, 16)
    assert saved.frames_per_second == Fraction(30000, 1001)

    report = json.loads(files["--report"].read_text())
    assert report["seed"] == 3
    assert report["segment_seeds"] == {"0": 9}
    assert len(report["fidelity"]["segments"]) == len(report["plan"]["segments"])
    assert all(segment["sharpness"] > 0 for segment in report["fidelity"]["segments"])
    assert report["fidelity"]["first_frame_psnr_db"] > 0
    assert report["plan"]["output"] == {"pixel_frames": 9, "height": 64, "width": 128}
    assert report["plan"]["speed"]["origin"] == "measured"
    assert set(report["plan"]["seconds"]) == {work["stage"] for work in report["plan"]["work"]}
    phases = {"motion: picture", "motion", "motion: decode", "reference", "refine", "decode"}
    assert phases < set(report["seconds"])
    assert report["recipes"]["detail"]["steps"] == 1
    assert set(report["stages"]) == phases
    refine = report["stages"]["refine"]
    assert refine["flops_per_second"] == pytest.approx(refine["flops"] / refine["seconds"])
    assert (report["attention"], report["compiled"], report["streamed"]) == ("sdpa", False, [])
    assert not list(tmp_path.rglob("*.part*"))


def test_the_same_words_make_the_same_video_and_another_seed_another(generate, tmp_path):
    for name, seed in (("a.mkv", 1), ("b.mkv", 1), ("c.mkv", 2)):
        assert generate("--codec", "ffv1", "--seed", seed, output=name) == 0
    a, b, c = (read_video(tmp_path / name).frames for name in ("a.mkv", "b.mkv", "c.mkv"))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_what_was_streamed_is_reported(generate, tmp_path):
    words = ["--memory", "0.01", "--vae-memory", "1", "--report", tmp_path / "report.json"]
    assert generate("--codec", "ffv1", output="a.mkv") == 0
    assert generate("--codec", "ffv1", *words, output="b.mkv") == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["streamed"]
    assert all(entry["copied_nbytes"] > 0 for entry in report["streamed"])
    assert "streamed" in report["plan"]["memory"]["stages"]["refine"]["how"]
    a, b = read_video(tmp_path / "a.mkv"), read_video(tmp_path / "b.mkv")
    assert torch.equal(a.frames, b.frames)


def test_a_disk_without_room_is_found_out_before_the_run(generate, refuses, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage)
    refuses(
        lambda: generate("--save-latent", tmp_path / "not yet" / "latent.safetensors"),
        "0.00 GB free, and about 0.00 GB will be written; make room",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_decoding_a_saved_latent_gives_the_same_video(generate, tmp_path):
    latent = tmp_path / "latent.safetensors"
    assert generate("--codec", "ffv1", "--save-latent", latent, output="a.mkv") == 0
    words = ["decode", latent, "--output", tmp_path / "b.mkv", "--codec", "ffv1", "--quiet"]
    assert main([str(word) for word in words]) == 0
    a, b = read_video(tmp_path / "a.mkv"), read_video(tmp_path / "b.mkv")
    assert torch.equal(a.frames, b.frames)
    assert a.frames_per_second == b.frames_per_second


def test_a_kept_motion_clip_makes_the_same_video_again(generate, tmp_path):
    """Stage I can be done once: its clip, kept without loss, stands in for it."""
    motion = tmp_path / "motion.mkv"
    assert generate("--codec", "ffv1", "--save-motion", motion, output="a.mkv") == 0
    assert generate("--codec", "ffv1", "--motion", motion, output="b.mkv") == 0
    a, b = (read_video(tmp_path / name).frames for name in ("a.mkv", "b.mkv"))
    write_clip(own := tmp_path / "own.mkv", 9)
    assert generate("--codec", "ffv1", "--motion", own, output="c.mkv") == 0
    c = read_video(tmp_path / "c.mkv").frames
    # The kept clip has 8 bits: half a level of difference goes through Stage II.
    assert (a - b).abs().mean() < 0.2 * (a - c).abs().mean()


@pytest.mark.parametrize(
    "words",
    [
        ["--segment-length", "2"],
        ["--neighbors", "0"],
        ["--right-neighbors", "1"],
        ["--rope", "local"],
        ["--interaction", "read-only"],
        ["--solver", "renoise"],
        ["--solver", "unipc"],
        ["--motion-solver", "unipc"],
        ["--motion-solver", "renoise"],
        ["--steps", "2"],
        ["--motion-steps", "2"],
        ["--cfg", "3"],
        ["--motion-cfg", "3"],
        ["--reference-strength", "0.6"],
        ["--sigma-shift", "3"],
        ["--motion-sigma-shift", "8"],
        ["--prompt", "another prompt"],
        ["--segment-seed", "1=5"],
    ],
    ids=" ".join,
)
def test_every_setting_changes_the_video(generate, tmp_path, words):
    """One option at a time, everything else the same."""
    usual = ["--codec", "ffv1", "--segment-length", "1", "--pixel-frames", "13"]
    usual += ["--steps", "3", "--motion-steps", "3", "--negative", "blur"]
    assert generate(*usual, output="usual.mkv") == 0
    assert generate(*usual, *words, output="changed.mkv") == 0
    usual, changed = (read_video(tmp_path / name) for name in ("usual.mkv", "changed.mkv"))
    assert changed.frames.shape == usual.frames.shape
    assert not torch.equal(usual.frames, changed.frames)


def test_the_negative_prompt_counts_with_guidance_only(generate, tmp_path):
    for name, words in {
        "a.mkv": ["--cfg", "1", "--negative", "blur"],
        "b.mkv": ["--cfg", "1", "--negative", "noise"],
        "c.mkv": ["--cfg", "2", "--negative", "blur"],
        "d.mkv": ["--cfg", "2", "--negative", "noise"],
    }.items():
        assert generate("--codec", "ffv1", *words, output=name) == 0
    a, b, c, d = (read_video(tmp_path / f"{name}.mkv").frames for name in "abcd")
    assert torch.equal(a, b)
    assert not torch.equal(c, d)


def test_a_folder_of_models_is_used(generate, tmp_path):
    save_model_set(seeded_model_set(5), tmp_path / "set")
    assert generate("--codec", "ffv1", output="built in.mkv") == 0
    assert generate("--codec", "ffv1", "--models", tmp_path / "set", output="folder.mkv") == 0
    built_in, folder = (
        read_video(tmp_path / name).frames for name in ("built in.mkv", "folder.mkv")
    )
    assert not torch.equal(built_in, folder)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--size", "100x200"], ["size 100x200", "multiples of 64", "nearest is 128x192"]),
        (["--size", "huge"], ["'huge' is no size; write it like 2560x1408"]),
        (["--pixel-frames", "10"], ["10 frames", "4n+1", "nearest is 9"]),
        (["--pixel-frames", "1"], ["1 frame is a picture", "shortest video has 5"]),
        (["--pixel-frames", "100000001"], ["100000001 frames are too many", "10001"]),
        (["--size", "64x20480"], ["size 64x20480 is too large", "16384"]),
        (["--steps", "0"], ["steps is 0; at least 1"]),
        (["--steps", "1000000000"], ["steps is 1000000000; more than 10000"]),
        (["--cfg", "-1"], ["cfg is -1"]),
        (["--motion-sigma-shift", "0"], ["sigma_shift is 0"]),
        (["--segment-length", "0"], ["segment_length is 0"]),
        (["--neighbors", "-1"], ["neighbors is -1"]),
        (["--carry", "2"], ["carry is 2", "from 0 (none) to 1 (all)"]),
        (["--reference-strength", "1"], ["reference_strength is 1", "below 1"]),
        (["--reference-strength", "-0.1"], ["reference_strength is -0.1"]),
        (["--seed", "-1"], ["'-1' is no seed"]),
        (["--seed", str(2**64)], ["is no seed; write it like 42"]),
        (["--segment-seed", "7=1"], ["segment 7 cannot be re-rolled: the plan has 1 segments"]),
        (["--segment-seed", "seven"], ["'seven' is no re-roll; write it like 2=43"]),
        (["--fps", "0"], ["'0' is no rate"]),
        (["--fps", "0.0000001"], ["'0.0000001' is no rate"]),
        (["--fps", "1/999999999999"], ["'1/999999999999' is no rate"]),
        (["--fps", "1e999999999"], ["'1e999999999' is no rate"]),
        (["--fps", "1/0"], ["'1/0' is no rate; write it like 16 or 30000/1001"]),
        (["--rope", "sideways"], ["sideways", "global", "local"]),
        (["--quality", "99"], ["quality 99 does not exist"]),
        (["--codec", "prores"], ["prores is stored in .mov"]),
        (["--image", "nowhere.png"], ["nowhere.png does not exist"]),
        (["--models", "nowhere"], ["nowhere"]),
        (["--motion", "nowhere.mp4"], ["nowhere.mp4 does not exist"]),
        (["--surprise"], ["--surprise", "see swift_core --help"]),
        (["--pixel", "9"], ["--pixel"]),
        (["--image", "x" * 300], ["xxx: File name too long"]),
        (["--models", "x" * 300], ["xxx: File name too long"]),
        (["--motion", "x" * 300], ["xxx: File name too long"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_bad_words(generate, refuses, words, expected):
    refuses(lambda: generate(*words), *expected)


def test_a_missing_command(refuses):
    refuses(lambda: main([]), "command", "see swift_core --help")


def test_missing_words(refuses, tmp_path):
    refuses(lambda: main(["generate", "--output", str(tmp_path / "a.mp4")]), "--image")


def test_no_cuda(generate, refuses, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refuses(lambda: generate("--device", "cuda"), "no CUDA device", "--device cpu")


def test_what_is_ours_on_the_card_counts_as_free(monkeypatch, caplog):
    """A stage is asked what it may take when its model is there already."""
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10_000, 24_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 6_000)
    assert settings._budget(None, on_cuda=True)() == int(0.85 * 16_000)
    assert settings._budget(15_000, on_cuda=True)() == 15_000
    assert not caplog.text
    assert settings._budget(20_000, on_cuda=True)() == 16_000
    assert "only 0.0 GB are free" in caplog.text


@pytest.mark.parametrize("name", ["out.mp4", "report.json", "motion.mkv", "latent.safetensors"])
def test_an_existing_file_is_kept_unless_overwriting(generate, refuses, tmp_path, name):
    (tmp_path / name).write_text("precious")
    option = {
        "report.json": ["--report", tmp_path / name],
        "motion.mkv": ["--save-motion", tmp_path / name],
        "latent.safetensors": ["--save-latent", tmp_path / name],
    }.get(name, [])
    refuses(lambda: generate(*option), f"{name} exists already")
    assert (tmp_path / name).read_text() == "precious"


def test_overwriting(generate, tmp_path):
    (tmp_path / "out.mp4").write_text("old")
    assert generate("--overwrite") == 0
    assert probe_video(tmp_path / "out.mp4").pixel_frames == 9


def test_impossible_places(generate, refuses, tmp_path):
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder.mp4").mkdir()
    refuses(lambda: generate(output="file/out.mp4"), "file is a file and not a folder")
    refuses(lambda: generate(output="folder.mp4"), "folder.mp4 is a folder")
    refuses(lambda: generate(output="out.avi"), "'.avi'", "use one of .mp4")
    refuses(lambda: generate("--report", tmp_path / "report.txt"), "use one of .json")
    same = tmp_path / "same.mkv"
    refuses(
        lambda: generate("--codec", "ffv1", "--save-motion", same, output="same.mkv"),
        "--output and --save-motion both name",
    )
    refuses(lambda: generate(output="x" * 300 + ".mp4"), "File name too long")
    os.mkfifo(tmp_path / "pipe")
    refuses(lambda: generate("--image", tmp_path / "pipe"), "pipe is no ordinary file")


def test_an_output_that_is_an_input(generate, refuses, tmp_path):
    write_clip(clip := tmp_path / "clip.mkv", 9)
    words = ["--codec", "ffv1", "--overwrite", "--motion", clip]
    refuses(lambda: generate(*words, output="clip.mkv"), "--motion and --output both name")


def test_keeping_stage_one_without_stage_one(generate, refuses, tmp_path):
    write_clip(clip := tmp_path / "clip.mkv", 9)
    words = ["--motion", clip, "--save-motion", tmp_path / "kept.mkv"]
    refuses(lambda: generate(*words), "--save-motion keeps Stage I's clip", "leave one")


def test_a_picture_and_its_own_movement(generate, tmp_path):
    """One file as both inputs: the first frame is the picture, all of them the motion."""
    draw = torch.Generator().manual_seed(0)
    frames = torch.randint(256, (9, 16, 32, 3), dtype=torch.uint8, generator=draw).numpy()
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=125)
    assert generate("--image", tmp_path / "a.gif", "--motion", tmp_path / "a.gif") == 0


def test_two_runs_do_not_make_one_file(generate, refuses, tmp_path, monkeypatch):
    """The name is taken as soon as the first run starts, and given back if it fails."""

    def generate_again(*_):
        refuses(generate, "out.mp4 exists already")
        raise KeyboardInterrupt

    monkeypatch.setattr("swift_core.cli.generate._run", generate_again)
    assert generate() == 2
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs a folder nobody can write")
def test_a_folder_that_cannot_be_written(picture, refuses):
    words = ["generate", "--image", str(picture), "--prompt", "a", "--output", "/proc/out.mp4"]
    refuses(lambda: main(words), "/proc/out.mp4 cannot be written", "choose another folder")


@pytest.mark.parametrize("pixel_frames", [5, 13])
def test_a_motion_clip_of_the_wrong_length(generate, refuses, tmp_path, pixel_frames):
    write_clip(tmp_path / "motion.mkv", pixel_frames)
    refuses(
        lambda: generate("--motion", tmp_path / "motion.mkv"),
        f"has {pixel_frames if pixel_frames < 9 else 'more than 9'} frames",
        "video is to have 9",
    )


@pytest.mark.parametrize("name", ["picture.png", "motion.mkv"])
def test_truncated_media(generate, refuses, tmp_path, name):
    write_clip(tmp_path / "motion.mkv", 9)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    option = ["--motion", path] if name == "motion.mkv" else []
    refuses(lambda: generate(*option), name)


def test_truncated_and_wrong_checkpoints(generate, refuses, tmp_path):
    folder = tmp_path / "set"
    save_model_set(seeded_model_set(), folder)
    detail, vae = folder / "detail.safetensors", next(folder.glob("*vae*.safetensors"))
    whole = detail.read_bytes()
    detail.write_bytes(whole[:-100])
    refuses(lambda: generate("--models", folder), "detail.safetensors", "download it again")
    detail.write_bytes(vae.read_bytes())
    refuses(lambda: generate("--models", folder), "detail.safetensors", "VAE", "DiT")
    detail.unlink()
    refuses(lambda: generate("--models", folder), "detail.safetensors")


def test_a_latent_that_is_none_or_of_another_vae(refuses, tmp_path):
    output = ["--output", str(tmp_path / "out.mp4")]
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, other)
    refuses(lambda: main(["decode", str(other), *output]), "is no saved latent", "--save-latent")
    refuses(lambda: main(["decode", str(tmp_path / "no.safetensors"), *output]), "does not exist")
    foreign = tmp_path / "foreign.safetensors"
    save_file(
        {"latent": torch.zeros(1, 16, 2, 4, 4)},
        foreign,
        metadata={"swift_i2v_latent": '{"frames_per_second": "16"}'},
    )
    refuses(lambda: main(["decode", str(foreign), *output]), "frames per second and latent space")
    for notes, words in (
        ({"frames_per_second": "1/0", "latent_space": "any"}, "frames per second"),
        ({"frames_per_second": "16", "latent_space": "of another\nVAE"}, r"of another\nVAE"),
    ):
        metadata = {"swift_i2v_latent": json.dumps(notes)}
        save_file({"latent": torch.zeros(1, 48, 2, 4, 4)}, foreign, metadata=metadata)
        refuses(lambda: main(["decode", str(foreign), *output]), words)


def test_a_latent_of_another_vae_with_as_many_channels(refuses, tmp_path):
    """The built-in VAE and Wan2.2's both have 48 channels, and are not the same."""
    saved = SavedLatent(
        latent=torch.zeros(1, 48, 2, 4, 4),
        frames_per_second=Fraction(16),
        latent_space=WAN22_VAE.latent_space,
    )
    save_latent(saved, tmp_path / "full.safetensors")
    words = ["decode", str(tmp_path / "full.safetensors"), "--output", str(tmp_path / "out.mp4")]
    refuses(lambda: main(words), "48 channels, 16x16x4", "8x8x4", "pass --models")


def test_plan_reads_no_weights_and_prints_for_people_and_programs(capsys, monkeypatch):
    monkeypatch.setattr(Runtime, "load", lambda *_: pytest.fail("a model was loaded"))
    assert main(["plan"]) == 0
    words = capsys.readouterr().out
    assert "2560x1408, 81 frames" in words
    assert "17600 tokens per step" in words
    assert main(["plan", "--json", "--pixel-frames", "241", "--segment-length", "2"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert len(data["segments"]) == 30
    assert data["tokens_per_step"] == 14080


def test_plan_of_a_folder(capsys, tmp_path):
    save_model_set(seeded_model_set(), tmp_path / "set")
    words = ["plan", "--models", str(tmp_path / "set"), "--size", "512x320", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["tokens_per_frame"] == 640


def test_inspect_says_what_each_file_is_and_goes_on_after_a_bad_one(capsys, tmp_path):
    save_model_set(seeded_model_set(), tmp_path / "set")
    detail, missing = str(tmp_path / "set" / "detail.safetensors"), str(tmp_path / "missing")
    assert main(["inspect", missing, detail]) == 2
    printed = capsys.readouterr()
    assert "does not exist" in printed.err
    assert "96 input channels" in printed.out
    assert main(["inspect", detail, "--json"]) == 0
    (data,) = json.loads(capsys.readouterr().out)
    assert data["file"] == detail
    assert data["config"]["in_channels"] == 96


@pytest.mark.skipif(sys.platform == "win32", reason="no such names there")
def test_a_name_of_a_file_gives_the_terminal_no_orders(capsys, tmp_path):
    path = tmp_path / "a\x1b[31m\x9b2J"
    assert main(["inspect", str(path)]) == 2
    assert f"{tmp_path}/a\\x1b[31m\\x9b2J does not exist" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="signals are another thing there")
def test_ctrl_c_stops_cleanly(picture, tmp_path):
    output = tmp_path / "out.mp4"
    output.write_text("old")
    command = [sys.executable, "-m", "swift_core", "generate", "--image", str(picture)]
    command += ["--prompt", "a", "--output", str(output), "--overwrite", "--size", "512x320"]
    command += ["--pixel-frames", "241"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # Tests that were started in the background would hand on that they ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        said = b""
        while b"motion" not in said:  # until the first bar appears: the run is under way
            said += process.stderr.read(1) or pytest.fail(said.decode())
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read().decode()
        assert process.wait() == 2
    assert rest.splitlines()[-1] == "swift_core: stopped; no unfinished file is left."
    assert "Traceback" not in rest
    assert output.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "picture.png"]


def run_in_a_shell(line, tmp_path, *, picture):
    """Run the command as a shell would, with whatever is done to its streams."""
    small = " ".join(SMALL)
    output = tmp_path / "中.mp4"
    command = (
        f"{sys.executable} -m swift_core generate --image {picture} --prompt a {small} "
        f"--output {output} {line}"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=ROOT, env=environment, capture_output=True, check=False
    )
    return done, output


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("line", ["", ">&-", ">/dev/full", "2>&-", "2>/dev/full", "| true"])
def test_streams_that_nobody_reads_do_not_lose_a_video(tmp_path, picture, line):
    done, output = run_in_a_shell(line, tmp_path, picture=picture)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    assert probe_video(output).pixel_frames == 9
    if not line:
        assert done.stdout.decode().strip().endswith("\\u4e2d.mp4")


@pytest.mark.skipif(sys.platform == "win32", reason="no ulimit there")
def test_a_latent_that_does_not_fit_on_the_disk(tmp_path, picture):
    latent = tmp_path / "latent.safetensors"
    command = [sys.executable, "-m", "swift_core", "generate", "--image", str(picture)]
    command += ["--prompt", "a", *SMALL, "--size", "256x256", "--quiet"]
    command += ["--output", str(tmp_path / "out.mp4"), "--save-latent", str(latent)]
    done = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -f 200; exec "$@"', "sh", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"{latent} cannot be written" in done.stderr.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["picture.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are another thing there")
def test_ctrl_c_while_python_still_imports():
    script = (
        "import sys, runpy\n"
        "class Stop:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Stop())\n"
        "sys.argv = ['swift_core', 'plan']\n"
        "runpy.run_module('swift_core', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "\nswift_core: stopped before it began.\n"


def test_no_memory_is_a_sentence_and_other_faults_are_not_hidden(monkeypatch, capsys):
    def fail(error):
        def raise_it(*_, **__):
            raise error

        monkeypatch.setattr("swift_core.cli.commands.plan_generation", raise_it)
        return main(["plan"])

    assert fail(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")) == 2
    assert "not enough memory for this size" in capsys.readouterr().err
    assert fail(MemoryError()) == 2
    with pytest.raises(RuntimeError, match="a fault of ours"):
        fail(RuntimeError("a fault of ours"))


def test_inspect_knows_a_saved_latent(tmp_path, capsys):
    saved = SavedLatent(
        latent=torch.zeros(1, 48, 2, 4, 4),
        frames_per_second=Fraction(24),
        latent_space=WAN22_VAE.latent_space,
    )
    save_latent(saved, tmp_path / "latent.safetensors")
    assert main(["inspect", str(tmp_path / "latent.safetensors")]) == 0
    assert "a saved latent, 48x2x4x4, 24 frames per second" in capsys.readouterr().out
    assert main(["inspect", "--json", str(tmp_path / "latent.safetensors")]) == 0
    (data,) = json.loads(capsys.readouterr().out)
    assert (data["kind"], data["shape"]) == ("latent", [48, 2, 4, 4])


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["--help"])
    assert leaving.value.code == 0
    shown = capsys.readouterr().out
    assert [name for name in ("generate", "decode", "plan", "inspect") if name not in shown] == []
