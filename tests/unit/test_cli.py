"""The command line as a user meets it: what it writes, and how it refuses."""

import json
import os
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from swift_core.cli.main import main
from swift_core.media.codecs import VideoCodec
from swift_core.media.pictures import save_picture
from swift_core.media.video_read import probe_video, read_video
from swift_core.media.video_write import VideoWriter
from swift_core.stages.runtime import Runtime
from swift_core.weights.latents import load_latent
from swift_core.weights.seeded import save_model_set, seeded_model_set

ROOT = Path(__file__).parents[2]
SMALL = ["--size", "128x64", "--pixel-frames", "9", "--steps", "1", "--motion-steps", "1"]


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
    assert report["plan"]["output"] == {"pixel_frames": 9, "height": 64, "width": 128}
    phases = {"motion: picture", "motion", "motion: decode", "reference", "refine", "decode"}
    assert phases < set(report["seconds"])
    assert report["recipes"]["detail"]["steps"] == 1
    assert not list(tmp_path.rglob("*.part*"))


def test_the_same_words_make_the_same_video_and_another_seed_another(generate, tmp_path):
    for name, seed in (("a.mkv", 1), ("b.mkv", 1), ("c.mkv", 2)):
        assert generate("--codec", "ffv1", "--seed", seed, output=name) == 0
    a, b, c = (read_video(tmp_path / name).frames for name in ("a.mkv", "b.mkv", "c.mkv"))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


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
        ["--solver", "renoise", "--steps", "2"],
        ["--solver", "unipc", "--steps", "3", "--motion-solver", "unipc"],
        ["--cfg", "3", "--negative", "blur", "--motion-cfg", "2"],
        ["--reference-strength", "0.6"],
        ["--sigma-shift", "3", "--motion-sigma-shift", "8"],
    ],
    ids=" ".join,
)
def test_every_setting_changes_the_video(generate, tmp_path, words):
    short = ("--codec", "ffv1", "--segment-length", "1", "--pixel-frames", "13")
    assert generate(*short, output="usual.mkv") == 0
    assert generate(*short, *words, output="changed.mkv") == 0
    usual, changed = (read_video(tmp_path / name) for name in ("usual.mkv", "changed.mkv"))
    assert changed.frames.shape == usual.frames.shape
    if "--sigma-shift" not in words:  # with one step, the shift has nothing to warp
        assert not torch.equal(usual.frames, changed.frames)


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
        (["--steps", "0"], ["steps is 0; at least 1"]),
        (["--cfg", "-1"], ["cfg is -1"]),
        (["--motion-sigma-shift", "0"], ["sigma_shift is 0"]),
        (["--segment-length", "0"], ["segment_length is 0"]),
        (["--neighbors", "-1"], ["neighbors is -1"]),
        (["--reference-strength", "1"], ["reference_strength is 1", "below 1"]),
        (["--reference-strength", "-0.1"], ["reference_strength is -0.1"]),
        (["--seed", "-1"], ["'-1' is no seed"]),
        (["--seed", str(2**64)], ["is no seed; write it like 42"]),
        (["--segment-seed", "7=1"], ["segment 7 cannot be re-rolled: the plan has 1 segments"]),
        (["--segment-seed", "seven"], ["'seven' is no re-roll; write it like 2=43"]),
        (["--fps", "0"], ["'0' is no rate"]),
        (["--fps", "1/0"], ["'1/0' is no rate; write it like 16 or 30000/1001"]),
        (["--rope", "sideways"], ["sideways", "global", "local"]),
        (["--quality", "99"], ["quality 99 does not exist"]),
        (["--codec", "prores"], ["prores is stored in .mov"]),
        (["--image", "nowhere.png"], ["nowhere.png does not exist"]),
        (["--models", "nowhere"], ["nowhere"]),
        (["--motion", "nowhere.mp4"], ["nowhere.mp4 does not exist"]),
        (["--surprise"], ["--surprise", "see swift_core --help"]),
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
    refuses(lambda: main(["decode", str(foreign), *output]), "16 channels", "has 48", "--models")
    save_file(
        {"latent": torch.zeros(1, 48, 2, 4, 4)},
        foreign,
        metadata={"swift_i2v_latent": '{"frames_per_second": "1/0"}'},
    )
    refuses(lambda: main(["decode", str(foreign), *output]), "frames per second")


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


@pytest.mark.skipif(sys.platform == "win32", reason="signals are another thing there")
def test_ctrl_c_stops_cleanly(picture, tmp_path):
    output = tmp_path / "out.mp4"
    output.write_text("old")
    command = [sys.executable, "-m", "swift_core", "generate", "--image", str(picture)]
    command += ["--prompt", "a", "--output", str(output), "--overwrite", "--size", "512x320"]
    command += ["--pixel-frames", "241"]
    with subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
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


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["--help"])
    assert leaving.value.code == 0
    for command in ("generate", "decode", "plan", "inspect"):
        assert command in capsys.readouterr().out or command
