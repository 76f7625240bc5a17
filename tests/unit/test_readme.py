"""What the README shows is what happens."""

import re
import runpy
from pathlib import Path

import pytest
import torch

from swift_core.cli.main import main
from swift_core.media.pictures import save_picture
from swift_core.media.video_read import probe_video
from swift_core.model.config import WAN22_TI2V_5B
from swift_core.segments.plan import SegmentSettings
from swift_core.weights.detect import expected_shapes
from tests.sparse import write_sparse

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
COMMAND_LINE = README.split("## For programs: the command line", 1)[1].split("\n## ", 1)[0]


def shown_after(command):
    """Give the lines that the README shows after a command, up to the next empty line."""
    shown = README.split(f"$ python -m swift_core {command}", 1)[1]
    return shown.split("\n", 1)[1].split("\n\n")[0]


def test_the_plan(capsys):
    assert main(["plan"]) == 0
    assert capsys.readouterr().out.strip() == shown_after("plan").strip()


def test_the_lengths(capsys):
    for pixel_frames, tokens in ((81, "73,920"), (241, "214,720")):
        assert f"{tokens} ({pixel_frames}" in README
        main(["plan", "--pixel-frames", str(pixel_frames)])
        assert f"unsegmented: {tokens.replace(',', '')}" in capsys.readouterr().out


def test_the_refusal(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["generate", "--image", "photo.jpg", "--prompt", "", "--output", "video.mp4"]
    assert main([*words, "--size", "1920x1080"]) == 2
    assert capsys.readouterr().err.strip() in README


def test_the_inspection(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("wan2.2_ti2v_5B_fp16.safetensors")
    write_sparse(path, expected_shapes(WAN22_TI2V_5B), dtype="F16")
    assert main(["inspect", str(path)]) == 0
    assert capsys.readouterr().out.strip() == shown_after("inspect").strip()


def test_the_python_example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_picture(torch.rand(64, 128, 3), Path("photo.jpg"))
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    Path("example.py").write_text(code)
    runpy.run_path("example.py")
    assert probe_video(Path("video.mkv")).pixel_frames == 9


@pytest.mark.parametrize("option", sorted(set(re.findall(r"--[a-z][a-z-]+", COMMAND_LINE))))
def test_every_option_exists(option, capsys):
    helps = ""
    for command in ("generate", "plan", "inspect", "decode"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        helps += capsys.readouterr().out
    assert option in helps or option == "--motion-"


def test_the_defaults():
    from swift_core.cli.settings import FULL_OUTPUT, SMALL_OUTPUT

    assert (FULL_OUTPUT.width, FULL_OUTPUT.height, FULL_OUTPUT.pixel_frames) == (2560, 1408, 81)
    assert (SMALL_OUTPUT.width, SMALL_OUTPUT.height, SMALL_OUTPUT.pixel_frames) == (512, 320, 49)
    settings = SegmentSettings()
    assert (settings.segment_length, settings.neighbors, settings.right_neighbors) == (3, 1, 0)
