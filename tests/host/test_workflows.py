"""The graphs that are shipped, run in a real ComfyUI."""

import copy
import json
import os
import shutil
import subprocess
from fractions import Fraction

import av
import pytest
import torch
from safetensors.torch import save

from swift_core.media.codecs import VideoCodec
from swift_core.media.pictures import save_picture
from swift_core.media.video_read import probe_video
from swift_core.media.video_write import VideoWriter
from tests.host.small_models import TEXT_DIM, write_models
from tests.page import NAMES, WORKFLOWS, all_schemas, read_api, read_ui, to_api
from tests.schemas import recorded, schema_of, schemas_of

pytestmark = [pytest.mark.host, pytest.mark.slow]

BUNDLED = ("swift-tiny", "your-own-motion")
FULL = ("2k-on-24gb", "low-vram", "core-model")
FRAMES = 17
CLIP_RATE = 12


@pytest.fixture(scope="session")
def inputs(server, tmp_path_factory):
    """Put what the graphs open into ComfyUI's input folder."""
    folder = tmp_path_factory.mktemp("inputs")
    draws = torch.Generator().manual_seed(0)
    save_picture(torch.rand(96, 128, 3, generator=draws), folder / "example.png")
    server.upload_image(folder / "example.png")
    clip = folder / "motion.mp4"
    with VideoWriter(
        clip,
        codec=VideoCodec.H264,
        frames_per_second=Fraction(CLIP_RATE),
        height=120,
        width=160,
    ) as writer:
        writer.write(torch.rand(24, 120, 160, 3, generator=draws))
    server.upload_image(clip)


@pytest.fixture(scope="session")
def models(server):
    """Put small models into ComfyUI's folders, for as long as the tests run."""
    written = write_models(server.base / "models")
    yield
    for path in written:
        path.unlink()


def of_class(api, class_type):
    return [node["inputs"] for node in api.values() if node["class_type"] == class_type]


def shorten(ui):
    """Ask for fewer frames, as one would on the page."""
    schemas = all_schemas()
    for node in ui["nodes"]:
        for kind, name in (("MotionReference360P", "pixel_frames"), ("ImageFromBatch", "length")):
            if node["type"] == kind:
                widgets = [each for each in node["inputs"] if "widget" in each]
                place = [each["name"] for each in widgets].index(name)
                node["widgets_values"][place] = FRAMES
    return ui, to_api(ui, schemas)


def saved(server, outcome, tmp_path):
    """Fetch the videos that a run has saved: file by title's place in the graph."""
    files = []
    for node in sorted(outcome.outputs, key=int):
        for file in outcome.files(node):
            if file["type"] == "output":
                files.append(tmp_path / file["filename"])
                files[-1].write_bytes(server.view(file))
    return files


def shape(path):
    info = probe_video(path)
    return info.pixel_frames, info.width, info.height, float(info.frames_per_second)


def embedded(path):
    with av.open(str(path)) as container:
        return {key: json.loads(container.metadata[key]) for key in ("prompt", "workflow")}


def test_templates_are_listed_with_their_pictures(server):
    listed = server.http.get_json("/workflow_templates")["swift-i2v"]
    assert sorted(listed) == NAMES
    for name in NAMES:
        place = f"/api/workflow_templates/swift-i2v/{name}"
        assert server.http.get_json(f"{place}.json") == read_ui(name)
        picture = (WORKFLOWS / f"{name}.jpg").read_bytes()
        assert server.http.get(f"{place}.jpg") == picture


def test_the_record_of_schemas_is_this_comfyuis(server):
    """So the stand-in, of which it was made, says what a ComfyUI would."""
    assert schemas_of(server.pack_nodes()) == recorded()


def test_cores_nodes_are_as_the_graphs_take_them(server):
    told = server.object_info()
    for name, wanted in all_schemas().items():
        if name in recorded():
            continue
        found = schema_of(told[name])
        assert (
            found["outputs"][: len(wanted["outputs"])] == wanted["outputs"] or name == "SaveVideo"
        )
        inputs = {each["name"]: each for each in found["inputs"]}
        for each in wanted["inputs"]:
            kinds = {each["type"], "COMFY_DYNAMICCOMBO_V3"}
            assert inputs.pop(each["name"])["type"] in kinds, (name, each["name"])
        assert all(each["optional"] for each in inputs.values()), name


@pytest.mark.usefixtures("inputs")
@pytest.mark.parametrize("name", BUNDLED)
def test_without_any_download(server, tmp_path, name):
    ui, api = shorten(read_ui(name))
    with server.client() as client:
        outcome = client.wait(client.queue(api, workflow=ui), timeout=400)
    assert outcome.error is None, outcome.error
    *motion, video = saved(server, outcome, tmp_path)
    rate = CLIP_RATE if name == "your-own-motion" else 16
    assert shape(video) == (FRAMES, 512, 320, rate)
    assert [shape(clip) for clip in motion] == [(FRAMES, 128, 80, 16)] * (name == "swift-tiny")
    kept = embedded(video)
    assert kept["workflow"] == ui
    for key, node in api.items():  # ComfyUI notes more of a node there
        assert node.items() <= kept["prompt"].pop(key).items()
    assert not kept["prompt"]
    (sampler,) = (key for key, node in api.items() if node["class_type"] == "CSG2KSampler")
    (plan,) = outcome.outputs[sampler]["text"]
    assert plan.startswith(f"video     512x320, {FRAMES} frames")


@pytest.mark.usefixtures("inputs")
def test_a_clip_that_is_too_short_is_told_so(server):
    api = read_api("your-own-motion")
    (cut,) = of_class(api, "ImageFromBatch")
    assert cut["length"] == 49  # the clip has 24
    outcome = server.run(api, check=False, timeout=400)
    assert outcome.error.kind == "failed"
    assert "has 24 frames" in outcome.error.message
    assert "cut or retime the clip to 21" in outcome.error.message


@pytest.fixture(scope="session")
def comfy(host):
    """comfy-cli: beside ComfyUI's Python, or in the path."""
    program = shutil.which("comfy", path=host.python.parent) or shutil.which("comfy")
    if program is None:
        pytest.skip("no comfy-cli here")

    def run(server, path):
        command = [program, "--skip-prompt", "--json", "run", "--workflow", path, "--wait"]
        ended = subprocess.run(
            [*command, "--host", "127.0.0.1", "--port", str(server.port), "--timeout", "400"],
            env=os.environ | {"DO_NOT_TRACK": "1", "NO_PROXY": "127.0.0.1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    return run


@pytest.mark.usefixtures("inputs")
@pytest.mark.parametrize("form", ["ui", "api"])
@pytest.mark.parametrize("name", BUNDLED)
def test_comfy_run_takes_both_forms(server, comfy, tmp_path, name, form):
    ui, _ = shorten(read_ui(name))
    for node in ui["nodes"]:
        if node["type"] == "SaveVideo":
            node["widgets_values"][0] = f"run/{name}-{form}"
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(ui if form == "ui" else to_api(ui, all_schemas())))
    comfy(server, path)
    made = (server.base / "output/run").glob(f"{name}-{form}*")
    wanted = [(FRAMES, 128, 80)] * (name == "swift-tiny") + [(FRAMES, 512, 320)]
    assert sorted(shape(video)[:3] for video in made) == wanted


def shrink(server, api):
    """Keep every node and every file of a full-size graph; make its pictures small.

    The prompt is a drawn embedding as wide as UMT5's: of that encoder there is no small form.
    """
    api = copy.deepcopy(api)
    draws = torch.Generator().manual_seed(0)
    for node in list(api.values()):
        given, kind = node["inputs"], node["class_type"]
        if kind == "MotionReference360P":
            given.update(width=32, height=32, pixel_frames=9, steps=2)
        elif kind == "CSG2KSampler":
            given.update(width=64, height=64, steps=2)
        elif kind == "SegmentOverlapConfig":
            given.update(segment_length=1)
        elif kind == "LoadSwiftModels":
            given.update(text_encoder="none")
        elif kind == "CLIPTextEncode":
            embedding = torch.randn(1, 8, TEXT_DIM, generator=draws)
            name = f"prompt-{len(given['text'])}.safetensors"
            file = server.http.upload(name, save({"conditioning": embedding}))
            node.update(class_type="HostTestGive", inputs={"file": file})
    return {key: node for key, node in api.items() if node["class_type"] != "CLIPLoader"}


@pytest.mark.usefixtures("inputs", "models")
@pytest.mark.parametrize("name", FULL)
def test_full_size_graphs_with_small_models(server, tmp_path, name):
    api = shrink(server, read_api(name))
    outcome = server.run(api, timeout=550)
    motion, video = saved(server, outcome, tmp_path)
    rate = 24 if name == "low-vram" else 16
    assert shape(motion) == (9, 32, 32, rate)
    assert shape(video) == (9, 64, 64, rate)
    (sampler,) = (key for key, node in api.items() if node["class_type"] == "CSG2KSampler")
    (plan,) = outcome.outputs[sampler]["text"]
    assert "segments  2" in plan
