"""The nodes as ComfyUI is told of them; the stand-in for it is in tests/comfyui."""

import copy
import os
import re
import subprocess
import sys

import pytest

from tests.schemas import STAND_IN, broken, load_pack, recorded, schemas_of


@pytest.fixture(scope="module")
def infos():
    return load_pack()


@pytest.fixture(scope="module")
def widgets(infos):
    """Of every input of every node: its place, type and details."""
    return [
        (f"{node}.{name}", kind, details)
        for node, info in infos.items()
        for group in info["input"].values()
        for name, (kind, details) in group.items()
    ]


def test_saved_graphs_still_fit(infos):
    assert broken(recorded(), schemas_of(infos)) == []


def test_what_has_grown_is_recorded(infos):
    assert schemas_of(infos) == recorded(), "record it: python -m tests.schemas"


def test_every_supported_version_gets_the_same(infos):
    newest = load_pack("newest")
    assert schemas_of(newest) == schemas_of(infos)
    for node, info in newest.items():
        assert info["aliases"], node


def test_the_stand_in_is_strict():
    """Or else this file would pass what a real ComfyUI refuses."""
    script = """
from comfy_api.latest import io
for make in (
    lambda: io.Schema(node_id="A", search_aliases=["b"]),
    lambda: io.Int.Input("a", advanced=True),
    lambda: io.Float.Input("a", extra_dict={}),
    io.Schema("A", inputs=[io.Vae.Input("a")], outputs=[io.Vae.Output("a")]).validate,
):
    try:
        make()
    except (TypeError, ValueError):
        continue
    raise SystemExit("not refused")
"""
    environment = os.environ | {"PYTHONPATH": str(STAND_IN)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)


def test_every_node_says_what_it_is(infos):
    for node, info in infos.items():
        assert info["display_name"], node
        assert info["description"].endswith("."), node
        assert info["category"] == "SwiftI2V", node
        assert all(tooltip.endswith(".") for tooltip in info["output_tooltips"]), node


def test_every_input_has_a_tooltip(widgets):
    for place, _, details in widgets:
        assert details["tooltip"].endswith("."), place


def test_every_number_has_a_range_around_its_default(widgets):
    for place, kind, details in widgets:
        if kind in ("INT", "FLOAT"):
            assert details["min"] < details["max"], place
            assert details["min"] <= details["default"] <= details["max"], place


def test_every_choice_offers_its_default(widgets):
    for place, kind, details in widgets:
        if kind == "COMBO":
            assert details["default"] in details["options"], place


def changed(change):
    """Give the recorded schemas after a change to one node of theirs."""
    now = copy.deepcopy(recorded())
    change(now["CSG2KSampler"])
    return broken(recorded(), now)


def at(node, name):
    return next(each for each in node["inputs"] if each["name"] == name)


def test_growth_is_no_break():
    def grow(node):
        node["inputs"].append({"name": "more", "type": "INT", "optional": True, "default": 1})
        node["outputs"].append({"name": "more", "type": "INT"})
        at(node, "steps")["max"] += 1
        at(node, "solver")["options"].append("better")
        at(node, "vae")["type"] += ",MORE"
        node["display_name"] = "Another name"

    assert changed(grow) == []
    assert broken(recorded(), recorded() | {"Another": recorded()["CSG2KSampler"]}) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda node: node["inputs"].remove(at(node, "image")), "required inputs began otherwise"),
        (lambda node: node["inputs"].remove(at(node, "resume")), "optional inputs began otherwise"),
        (lambda node: at(node, "motion").update(name="clip"), "required inputs began otherwise"),
        (lambda node: node["inputs"].reverse(), "inputs began otherwise"),
        (
            lambda node: node["inputs"].insert(0, {"name": "a", "type": "INT", "optional": True}),
            "optional inputs began otherwise",
        ),
        (
            lambda node: node["inputs"].append({"name": "a", "type": "INT", "optional": False}),
            r"\['a'\] are new and required",
        ),
        (lambda node: at(node, "negative").update(optional=False), "inputs began otherwise"),
        (lambda node: at(node, "detail_model").update(type="MODEL"), "detail_model takes MODEL"),
        (lambda node: at(node, "steps").update(default=5), "steps is 5 if left out, it was 4"),
        (lambda node: at(node, "steps").update(max=50), "steps takes a smaller range"),
        (lambda node: at(node, "steps").update(min=2), "steps takes a smaller range"),
        (lambda node: at(node, "solver")["options"].remove("unipc"), "no longer offers"),
        (
            lambda node: at(node, "seed").update(control_after_generate=False),
            "takes another number of values",
        ),
        (lambda node: node["outputs"].pop(), "outputs began otherwise"),
        (lambda node: node["outputs"].reverse(), "outputs began otherwise"),
        (lambda node: node["outputs"][0].update(name="made"), "outputs began otherwise"),
        (lambda node: node["outputs"][0].update(type="IMAGE"), "outputs began otherwise"),
    ],
)
def test_a_break_is_found(change, said):
    faults = changed(change)
    assert len(faults) >= 1
    assert all(fault.startswith("CSG2KSampler: ") for fault in faults)
    assert re.search(said, " ".join(faults)), faults


def test_a_node_that_is_gone_is_found():
    now = recorded()
    del now["SwiftVAEDecodeTiled"]
    assert broken(recorded(), now) == ["SwiftVAEDecodeTiled is gone"]
