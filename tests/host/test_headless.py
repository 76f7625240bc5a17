"""Videos without the page: the shipped program, and comfy-cli as the README shows it."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from swift_core.media.codecs import VideoCodec
from swift_core.media.video_read import probe_video
from swift_core.media.video_write import VideoWriter
from tests.host.server import ROOT, host_environment

pytestmark = pytest.mark.host

PICTURE = ROOT / "sample" / "coffee.jpg"
SCRIPT = ROOT / "workflows" / "headless.py"
README = (ROOT / "README.md").read_text(encoding="utf-8")
CLIP = "clip.mp4"
HEADLESS = README.split("### Headless", 1)[1].split("\n## ", 1)[0]


@pytest.fixture
def clip(tmp_path):
    """A short video beside the program."""
    path = tmp_path / CLIP
    with VideoWriter(
        path, codec=VideoCodec.H264, frames_per_second=Fraction(12), height=80, width=128
    ) as writer:
        writer.write(torch.rand(9, 80, 128, 3, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def make_video(server, tmp_path):
    """Run the shipped program with ComfyUI's Python; give what became of it and its video."""

    def run(*options):
        video = tmp_path / "video.mp4"
        command = [server.host.python, SCRIPT, PICTURE, "slow pan left", video, *options]
        ended = subprocess.run(
            [*command, "--server", server.url],
            cwd=tmp_path,
            env=host_environment(),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=300,
            check=False,
        )
        return ended, video

    return run


def test_the_program_makes_a_video(server, make_video):
    ended, video = make_video("--frames", "5", "--seed", "4711")
    assert ended.returncode == 0, ended.stderr
    found = probe_video(video)
    assert (found.pixel_frames, found.width, found.height) == (5, 512, 320)
    assert ended.stdout.splitlines()[-1] == str(video)
    # Each of the three long ones counts up to its end.
    for node in ("Motion Reference 360P", "CSG 2K Sampler", "SwiftI2V VAE Decode to Video"):
        assert re.search(rf"^{node}: (\d+) of \1$", ended.stdout, re.MULTILINE), ended.stdout
    shown = HEADLESS.split("$ python workflows/headless.py", 1)[1].split("\n```")[0]
    assert nodes_in(ended.stdout) <= nodes_in(shown)  # what is known does not run again
    (queued,) = (
        run["prompt"][2]
        for run in server.http.get_json("/history").values()
        if "4711" in json.dumps(run["prompt"][2])
    )
    inputs = {node["_meta"]["title"]: node["inputs"] for node in queued.values()}
    assert inputs["What happens"]["text"] == "slow pan left"
    assert inputs["Your picture"]["image"] == PICTURE.name
    assert {each["seed"] for each in inputs.values() if "seed" in each} == {4711}


@pytest.mark.usefixtures("clip")
def test_the_program_takes_a_clip_for_the_motion(make_video):
    ended, video = make_video("--graph", "your-own-motion", "--clip", CLIP)
    assert ended.returncode == 0, ended.stderr
    assert probe_video(video).pixel_frames == 9


def nodes_in(printed):
    """Give the titles of the nodes in what the program prints."""
    return {line.split(":")[0] for line in printed.splitlines()[1:-1] if line}


@pytest.mark.usefixtures("clip")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--frames", "6"), "headless: MotionReference360P: 6 frames cannot be encoded: .*5"),
        (("--frames", "3"), "headless: MotionReference360P: Value 3 smaller than min of 5"),
        (("--graph", "no-such"), "headless: .*no-such.json"),
        (("--clip", "motion.mp4"), 'headless: this graph has no node "Your clip"'),
        (
            ("--graph", "your-own-motion", "--clip", CLIP, "--frames", "17"),
            "headless: this graph has no pixel_frames",
        ),
        (
            ("--graph", "your-own-motion", "--clip", "no-such.mp4"),
            "headless: .*No such file .*no-such.mp4",
        ),
        (
            ("--graph", "low-vram"),
            "headless: LoadSwiftModels: .* put (it|them) there and press R, choose",
        ),
    ],
)
def test_the_program_says_what_is_wrong(make_video, options, said):
    ended, video = make_video(*options)
    assert ended.returncode == 1
    assert re.search(said, ended.stderr), ended.stderr
    assert "Traceback" not in ended.stderr
    assert not video.exists()


FILLED = """
import argparse, importlib.util, pathlib
spec = importlib.util.spec_from_file_location("headless", script)
headless = importlib.util.module_from_spec(spec)
spec.loader.exec_module(headless)

async def upload(session, path):
    return path.name

headless.upload = upload

def fill(graph, **given):
    asked = {"prompt": "pan left", "seed": 5, "frames": None, "clip": None, **given}
    asked["picture"] = pathlib.Path("photo.jpg")
    graph = json.loads((headless.API / f"{graph}.json").read_text(encoding="utf-8"))
    asyncio.run(headless.fill_in(None, graph, argparse.Namespace(**asked)))
    return {node["_meta"]["title"]: node["inputs"] for node in graph.values()}

own = fill("your-own-motion", clip=pathlib.Path("clip.mp4"))
result = [
    fill("2k-on-24gb")["Motion Reference 360P"]["pixel_frames"],
    fill("2k-on-24gb", frames=17)["Motion Reference 360P"]["pixel_frames"],
    own["Your clip"]["file"], own["Your picture"]["image"], own["CSG 2K Sampler"]["seed"],
]
"""


def test_what_is_not_given_stays_as_the_graph_has_it(inside):
    assert inside(FILLED, script=str(SCRIPT)) == [81, 17, "clip.mp4", "photo.jpg", 5]


@pytest.fixture
def comfy(server, tmp_path):
    """Run comfy-cli on the server; give what it prints."""
    folders = [os.environ.get("PATH", ""), str(Path(sys.executable).parent)]
    folders.append(str(server.host.python.parent))
    found = shutil.which("comfy", path=os.pathsep.join(folders))
    if found is None:
        pytest.skip("no comfy-cli here: pip install comfy-cli")

    def run(*words):
        ended = subprocess.run(
            [found, "--skip-prompt", *words],
            cwd=tmp_path,
            env=host_environment() | {"COMFY_LOCAL_URL": server.url, "COLUMNS": "100"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=300,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    return run


def videos_in(server, printed):
    """Give the frames of every saved video whose address was printed."""
    found = []
    for name in re.findall(r"filename=([\w.-]+\.mp4)&subfolder=swift", printed):
        found.append(probe_video(server.base / "output" / "swift" / name).pixel_frames)
    return found


def test_comfy_run_takes_the_api_form(server, comfy, tmp_path):
    graph = json.loads((ROOT / "workflows/api/swift-tiny.json").read_text(encoding="utf-8"))
    graph["2"]["inputs"]["image"] = server.upload_image(PICTURE)
    graph["5"]["inputs"]["pixel_frames"] = 5
    (tmp_path / "graph.json").write_text(json.dumps(graph), encoding="utf-8")
    printed = comfy("--json", "run", "--workflow", "graph.json", "--wait")
    outcome = json.loads(printed.splitlines()[-1])
    assert outcome["ok"], outcome
    assert videos_in(server, printed)[-2:] == [5, 5]


def test_what_the_readme_shows(server, comfy, tmp_path):
    """Its commands, one after the other, print what it shows; only the video is shorter."""
    shutil.copy(PICTURE, tmp_path / "photo.jpg")
    shutil.copy(ROOT / "workflows" / "swift-tiny.json", tmp_path / "graph.json")
    shown = re.findall(r"^\$ comfy (.*)\n((?:[^$`\n].*\n)*)", HEADLESS, re.MULTILINE)
    assert [line.split()[0] for line, _ in shown] == ["upload", "workflow", "run"]
    for line, expected in shown:
        words = shlex.split(line)
        if words[0] == "run":
            comfy("workflow", "set-slot", "graph.json", "5.pixel_frames=5")
        printed = comfy("--no-json", *words)
        assert words[0] == "run" or printed.strip() == expected.strip()
    assert videos_in(server, printed) == [5, 5]
