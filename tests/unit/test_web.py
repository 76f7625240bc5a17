"""What the pack gives the page: help for every node, pictures, the extension, the icon."""

import ast
import re
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path

import pytest

from swift_core.segments.plan import SegmentSettings, plan_segments
from tests.schemas import load_pack

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "web" / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LANGUAGES = ("ja", "zh")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def infos():
    return load_pack()


def node_of(page):
    return page.stem if page.parent == DOCS else page.parent.name


def name_of(page):
    return str(page.relative_to(DOCS))


@cache
def said_by_the_code():
    """Every text in the code; a line parts it from the next, "…" stands for what is filled in."""
    texts = []
    for folder in ("nodes", "swift_core"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = (getattr(part, "value", "…") for part in node.values)
                    texts.append("".join(part if isinstance(part, str) else "…" for part in parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return "\n".join(texts)


def messages(page):
    """Give the messages of the last section: `- ` message in backquotes, arrow, what to do."""
    last = page.read_text(encoding="utf-8").rsplit("\n## ", 1)[1]
    return re.findall(r"^- `([^`]+)` → \S", last, re.MULTILINE)


def test_every_node_has_help_in_every_language(infos):
    expected = {f"{node}.md" for node in infos}
    expected |= {f"{node}/{language}.md" for node in infos for language in LANGUAGES}
    assert {name_of(page) for page in PAGES} == expected


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_help_covers_every_input(page, infos):
    text = page.read_text(encoding="utf-8")
    inputs = {name for group in infos[node_of(page)]["input"].values() for name in group}
    inputs -= {"prompt", "extra_pnginfo", "unique_id"}  # not of the user
    missing = {name for name in inputs if f"`{name}`" not in text}
    assert not missing
    for output in infos[node_of(page)]["output_name"]:
        assert f"`{output}`" in text


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_failures_in_the_help_are_those_of_the_code(page):
    said = said_by_the_code()
    assert messages(page)
    for message in messages(page):
        for fragment in filter(None, (part.strip(" ()") for part in message.split("…"))):
            assert fragment in said, (fragment, message)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_translations_tell_of_the_same_failures(page):
    assert messages(page) == messages(DOCS / f"{node_of(page)}.md")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pictures_are_there(page):
    """The page looks for them beside the English text, in whatever language it shows."""
    for target in re.findall(r"!\[[^]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        assert (DOCS / target).is_file(), target
        assert (DOCS / target).stat().st_size < 64 * 1024, target


def test_the_picture_of_the_segments_is_the_plan():
    plan = plan_segments(21, SegmentSettings(segment_length=3, neighbors=1))
    boxes = ElementTree.parse(DOCS / "images" / "segments.svg").getroot().findall(f"{SVG}rect")[1:]
    assert len(boxes) == 21 * len(plan.segments)
    for segment in plan.segments:
        row = boxes[21 * segment.index :][:21]
        sampled = [place for place, box in enumerate(row) if box.get("fill") == "#3fb950"]
        seen = [place for place, box in enumerate(row) if box.get("fill") in ("#ffb347", "#58a6ff")]
        assert sampled == list(segment.targets)
        assert seen == [place for place in segment.latent_frames if place not in segment.targets]


def test_the_icon_is_what_the_registry_takes():
    root = ElementTree.parse(ROOT / "web" / "icon.svg").getroot()
    assert root.get("width") == root.get("height")
    assert int(root.get("width")) <= 400


def test_the_extension_shows_the_nodes_that_give_a_plan(infos):
    code = (ROOT / "web" / "js" / "swift_i2v.js").read_text(encoding="utf-8")
    named = set(re.findall(r'"(\w+)"', re.search(r"NODES = \[(.*?)\]", code)[1]))
    assert named == {node for node, info in infos.items() if "plan" in info["output_name"]}
    assert "prototype" not in code
    assert re.findall(r'from "([^"]+)"', code) == ["../../../scripts/app.js"]
