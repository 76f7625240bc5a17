"""The page in a real browser: the shipped graphs in both renderers, the plan on the nodes, help."""

import json
import re
from fractions import Fraction

import pytest
import torch

from swift_core.media.codecs import VideoCodec
from swift_core.media.video_write import VideoWriter
from tests.host.browser import Page
from tests.host.server import PACK, ROOT

pytestmark = [pytest.mark.host, pytest.mark.slow]

TEMPLATES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
RENDERERS = {"classic": False, "Nodes 2.0": True}
NODES_2 = (0, 4)
"""From this version on the page's second renderer is more than a trial."""
READY = "window.app?.extensionManager && window.app.graph && LiteGraph.registered_node_types[node]"
# What the page says where it finds no network: it asks for the sizes of models that are not there.
OFFLINE = re.compile(r"huggingface|Failed to fetch|ERR_NAME_NOT_RESOLVED|ERR_INTERNET")


@pytest.fixture(scope="module")
def inputs(server, tmp_path_factory):
    """What the graphs ask for in the input folder: ComfyUI's own example, and a clip."""
    server.http.upload("example.png", (ROOT / "sample" / "coffee.jpg").read_bytes())
    clip = tmp_path_factory.mktemp("clip") / "motion.mp4"
    rate = {"frames_per_second": Fraction(16), "height": 80, "width": 128}
    with VideoWriter(clip, codec=VideoCodec.H264, **rate) as writer:
        writer.write(torch.linspace(0, 1, 49).reshape(49, 1, 1, 1).expand(49, 80, 128, 3))
    server.upload_image(clip)


@pytest.fixture(scope="module", params=RENDERERS)
def page(request, server, browser, inputs):  # noqa: ARG001 - uploaded before
    """The page in one of its renderers; it is the newcomer's again at the end."""
    if RENDERERS[request.param] and server.host.version < NODES_2:
        pytest.skip(f"{server.host} has no finished Nodes 2.0")
    opened = open_page(server, browser)
    set_up(opened, "Comfy.VueNodes.Enabled", RENDERERS[request.param])
    # Its dialog would lie over the button of the next test.
    set_up(opened, "Comfy.Workflow.ShowMissingModelsWarning", False)
    yield opened
    set_up(opened, "Comfy.VueNodes.Enabled", False)


def open_page(server, browser) -> Page:
    opened = browser.open(f"{server.url}/", width=1800, height=1100)
    opened.wait_for(READY, node="CSG2KSampler")
    # The first graph is there when the page is; what it says while it starts is not ours.
    opened.wait_for("app.graph._nodes.length > 0")
    return opened


def set_up(page: Page, setting: str, value) -> None:
    page.evaluate("app.extensionManager.setting.set(setting, value)", setting=setting, value=value)
    page.wait_for("app.extensionManager.setting.get(s) === v", s=setting, v=value)


def open_template(page: Page, name: str) -> None:
    """Do what the list of templates does with the one that is chosen."""
    address = f"/api/workflow_templates/{PACK}/{name}.json"
    page.evaluate(
        "app.loadGraphData(await (await fetch(address)).json(), true, true, name)",
        address=address,
        name=name,
    )
    page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.evaluate("new Promise((done) => setTimeout(done, 1500))")  # widgets are laid out late


def complaints(page: Page, since: int) -> list:
    said = page.console[since:]
    return [
        each
        for each in said
        if each.level in ("warning", "error", "assert")
        and not OFFLINE.search(f"{each.text} {each.url}")
    ]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_opens_clean(page, name, tmp_path):
    since = len(page.console)
    open_template(page, name)
    page.screenshot(tmp_path / "opened.png")
    assert complaints(page, since) == []
    saved = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    types = page.evaluate("app.graph._nodes.map((node) => node.type)")
    assert sorted(types) == sorted(node["type"] for node in saved["nodes"])
    unknown = page.evaluate(
        "app.graph._nodes.filter((node) => node.has_errors && !node.comfyClass)"
    )
    assert unknown == []


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_page_queues_what_programs_queue(page, server, name):
    """The API form beside a template says the same as the template."""
    open_template(page, name)
    queued = page.evaluate("(await app.graphToPrompt()).output")
    shipped = json.loads((ROOT / "workflows/api" / f"{name}.json").read_text(encoding="utf-8"))
    assert queued.keys() == shipped.keys()
    ours = server.pack_nodes()
    for number, node in shipped.items():
        if node["class_type"] in {*ours, "LoadImage", "CLIPTextEncode"}:
            assert queued[number]["inputs"] == node["inputs"], node["_meta"]["title"]


def test_a_graph_saved_before_an_input_came_opens_with_its_default(page):
    """Inputs are only added at the end, so the page finds a value too few."""
    saved = json.loads((ROOT / "workflows/swift-tiny.json").read_text(encoding="utf-8"))
    shipped = json.loads((ROOT / "workflows/api/swift-tiny.json").read_text(encoding="utf-8"))
    (sampler,) = (node for node in saved["nodes"] if node["type"] == "CSG2KSampler")
    assert sampler["inputs"].pop()["name"] == "carry_detail"
    assert sampler["widgets_values"].pop() == -1
    since = len(page.console)
    page.evaluate("app.loadGraphData(saved, true, true, 'saved before')", saved=saved)
    page.evaluate("new Promise((done) => setTimeout(done, 1500))")
    queued = page.evaluate("(await app.graphToPrompt()).output")
    number = str(sampler["id"])
    assert queued[number]["inputs"] == shipped[number]["inputs"]
    assert complaints(page, since) == []


def test_pressing_run_shows_a_video_and_the_plan(page, tmp_path):
    since = len(page.console)
    open_template(page, "swift-tiny")
    page.evaluate(
        """app.graph._nodes.forEach((node) => node.widgets?.forEach((widget) => {
            if (["pixel_frames", "plan_frames"].includes(widget.name)) widget.value = 5;
            if (widget.name === "seed") widget.value = Math.floor(Math.random() * 1e9);
        }))"""
    )
    press(page, "Run")
    saved = page.evaluate("app.graph._nodes.find((node) => node.title === 'Your video').id")
    page.wait_for("app.nodeOutputs[id]?.images?.length", id=saved, timeout=180)
    page.wait_for("[...document.querySelectorAll('video')].some((v) => v.videoWidth === 512)")
    shown = page.wait_for(
        """(() => {
            const texts = [...document.querySelectorAll(".swift-i2v-plan")].map((e) => e.innerText);
            return texts.length === 2 && texts.every((t) => t.startsWith("video ")) && texts;
        })()"""
    )
    page.screenshot(tmp_path / "ran.png")
    assert all("512x320, 5 frames" in text for text in shown)
    assert complaints(page, since) == []

    everything = page.evaluate("JSON.stringify(await app.graphToPrompt())")
    assert "plan_text" not in everything
    assert "tokens per latent frame" not in everything

    look_at(page, "SegmentOverlapConfig")
    panel = "document.querySelector('.swift-i2v-plan').getBoundingClientRect()"
    page.click(*page.evaluate(f"[{panel}.x + 16, {panel}.y + 12]"), times=2)
    assert page.evaluate("getSelection().toString().trim()") == "video"


def look_at(page: Page, kind: str) -> None:
    """Select a node and come near: far off, the classic renderer leaves out what is small."""
    page.evaluate(
        """(() => {
            const node = app.graph._nodes.find((each) => each.type === kind);
            app.canvas.deselectAll();
            app.canvas.selectNode(node);
            app.canvas.ds.scale = 1;
            app.canvas.centerOnNode(node);
            app.canvas.setDirty(true, true);
        })()""",
        kind=kind,
    )
    page.evaluate("new Promise((done) => setTimeout(done, 1000))")


def press(page: Page, label: str) -> None:
    """Press a button with the mouse."""
    place = page.wait_for(
        """(() => {
            const buttons = [...document.querySelectorAll("button")];
            const box = buttons.find((each) => each.innerText.trim() === label);
            const { x, y, width, height } = box?.getBoundingClientRect() ?? {};
            return box && [x + width / 2, y + height / 2];
        })()""",
        label=label,
    )
    page.click(*place)


def test_the_plan_comes_back_with_its_workflow(page):
    """It was shown in the test before; another workflow is opened, and this one again."""
    page.evaluate("app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    page.wait_for("document.querySelectorAll('.swift-i2v-plan').length === 0")
    shown = """[...document.querySelectorAll(".swift-i2v-plan")].filter(
        (each) => each.innerText.startsWith("video ")).length"""
    for _ in range(2 * len(TEMPLATES) + 2):  # it is one of the open tabs
        page.evaluate("app.extensionManager.command.execute('Workspace.PreviousOpenedWorkflow')")
        page.evaluate("new Promise((done) => setTimeout(done, 1500))")
        if page.evaluate(shown) == 2:
            return
    pytest.fail("no tab shows the plan")


TITLES = {"zh": "CSG 2K 采样器", "ja": "CSG 2K サンプラー"}


@pytest.mark.parametrize("language", TITLES)
def test_nodes_and_their_help_are_translated(server, browser, language):
    assert {"en", "zh", "ja"} <= server.http.get_json("/i18n").keys()
    page = open_page(server, browser)
    set_up(page, "Comfy.Locale", language)
    try:
        page = open_page(server, browser)
        open_template(page, "swift-tiny")
        assert page.evaluate("LiteGraph.createNode('CSG2KSampler').title") == TITLES[language]
        # The hint in the empty panel is in the same language.
        hint = "document.querySelector('.swift-i2v-plan').innerText"
        assert re.search(r"[\u3040-\u9fff]", page.evaluate(hint))
        look_at(page, "CSG2KSampler")
        button = "document.querySelector('[data-testid=info-button]')"
        page.wait_for(f"{button} !== null")
        page.evaluate(f"{button}.click()")
        title = "document.querySelector('.node-help-content h1')?.innerText"
        page.wait_for(f"{title} === title", title=TITLES[language])
        page.wait_for("document.querySelector('.node-help-content img').naturalWidth > 0")
    finally:
        set_up(page, "Comfy.Locale", "en")
