"""`python -m tools.screenshots`: takes anew the README's two pictures of the page after a run.

Wants what the host tests want: a ComfyUI (`COMFYUI_PATH`) and Chromium.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image

from tests.host.browser import Browser, Page
from tests.host.finding import Host, find_host
from tests.host.server import ROOT, Server
from tests.host.test_page import READY, complaints, open_template, press, set_up

PICTURES = {"nodes-2": True, "classic": False}
"""By name: whether nodes are drawn by Vue, in Nodes 2.0."""

SCREEN = 3800, 2500
LEFT, TOP, WIDTH, HEIGHT = 500, 320, 2800, 1788
"""Which part of it is shown: at half the size, without side bars and dialogs."""

MARGIN = 16
"""Around the groups, in the canvas's units."""

SECONDS_IN = 1.9
"""Where the videos stand."""

MOST_NBYTES = 140_000

_SHOW = """(() => {
    const bounds = (app.graph._groups ?? app.graph.groups).map(
        (group) => [...(group._bounding ?? group.boundingRect)]);
    const left = Math.min(...bounds.map((b) => b[0])) - margin;
    const top = Math.min(...bounds.map((b) => b[1])) - margin;
    const right = Math.max(...bounds.map((b) => b[0] + b[2])) + margin;
    const bottom = Math.max(...bounds.map((b) => b[1] + b[3])) + margin;
    const scale = Math.min(width / (right - left), height / (bottom - top));
    const canvas = app.canvas.canvas.getBoundingClientRect();
    app.canvas.deselectAll();
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset[0] =
        (x + (width - scale * (right - left)) / 2 - canvas.left) / scale - left;
    app.canvas.ds.offset[1] =
        (y + (height - scale * (bottom - top)) / 2 - canvas.top) / scale - top;
    app.canvas.setDirty(true, true);
})()"""

_HOLD = """Promise.all([...document.querySelectorAll("video")].map((video) =>
    new Promise((done) => {
        video.autoplay = video.loop = false;
        video.pause();
        video.onseeked = () => done(video.currentTime);
        video.currentTime = seconds;
    })))"""


def take(host: Host, *, vue: bool) -> Image.Image:
    """Run the swift-tiny template on a page of its own, and picture it."""
    with tempfile.TemporaryDirectory() as base, Server(host, Path(base)) as server:
        server.http.upload("example.png", (ROOT / "sample" / "coffee.jpg").read_bytes())
        with Browser() as browser:
            width, height = SCREEN
            page = browser.open(f"{server.url}/", width=width, height=height, scale=1)
            _run(page, vue=vue)
            page.evaluate(_SHOW, x=LEFT, y=TOP, width=WIDTH, height=HEIGHT, margin=MARGIN)
            _wait(page, 3)
            page.call("Input.dispatchMouseEvent", type="mouseMoved", x=LEFT, y=TOP)
            page.evaluate(_HOLD, seconds=SECONDS_IN)
            _wait(page, 4)
            page.screenshot(Path(base) / "page.png")
        screen = Image.open(Path(base) / "page.png").convert("RGB")
    shown = screen.crop((LEFT, TOP, LEFT + WIDTH, TOP + HEIGHT))
    return shown.resize((WIDTH // 2, HEIGHT // 2), Image.Resampling.LANCZOS)


def _run(page: Page, *, vue: bool) -> None:
    """Open the template, run it, and wait for both videos."""
    page.wait_for(READY, node="CSG2KSampler")
    page.wait_for("app.graph._nodes.length > 0")
    set_up(page, "Comfy.VueNodes.Enabled", vue)
    set_up(page, "Comfy.Workflow.ShowMissingModelsWarning", value=False)
    since = len(page.console)
    open_template(page, "swift-tiny")
    press(page, "Run")
    page.wait_for(
        "[...document.querySelectorAll('video')].filter((v) => v.videoWidth).length === 2",
        timeout=400,
    )
    page.wait_for("(await (await fetch('/queue')).json()).queue_running.length === 0")
    assert not complaints(page, since)


def _wait(page: Page, seconds: float) -> None:
    """Let the page draw."""
    page.evaluate("new Promise((done) => setTimeout(done, time))", time=1000 * seconds)


def save(picture: Image.Image, path: Path) -> None:
    """Write it as well as so many bytes allow."""
    for quality in range(88, 60, -1):
        picture.save(path, quality=quality, optimize=True)
        if path.stat().st_size < MOST_NBYTES:
            return


def main() -> None:
    """Take both."""
    host = find_host()
    for name, vue in PICTURES.items():
        save(take(host, vue=vue), ROOT / "docs" / f"{name}.jpg")


if __name__ == "__main__":
    main()
