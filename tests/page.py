"""What ComfyUI's page does with a graph that it has saved: it turns it into what is queued."""

import json

from tests.schemas import ROOT, recorded

WORKFLOWS = ROOT / "workflows"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
NOTES = ("MarkdownNote", "Note")
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def read_ui(name):
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def read_api(name):
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))


def all_schemas():
    core = json.loads((ROOT / "tools/workflows/core_nodes.json").read_text(encoding="utf-8"))
    return core | recorded()


def nodes_of(ui):
    """Give those that run."""
    return [node for node in ui["nodes"] if node["type"] not in NOTES]


def ordered(schema):
    """The page puts sockets before what has a widget, and keeps the order of each."""
    sockets = [each for each in schema["inputs"] if each["type"] not in WIDGETS]
    return sockets, [each for each in schema["inputs"] if each["type"] in WIDGETS]


def widget_values(node, schema):
    """Give the values by name; those that the page adds for itself are not among them."""
    waiting = list(node["widgets_values"])
    values = {}
    for each in ordered(schema)[1]:
        values[each["name"]] = waiting.pop(0)
        if each.get("control_after_generate"):
            assert waiting.pop(0) in ("fixed", "increment", "decrement", "randomize")
        if each.get("upload"):
            assert waiting.pop(0) == "image"
    assert not waiting, f"{node['type']}: {waiting} is left"
    return values


def to_api(ui, schemas):
    """Convert the form that is saved to the form that is queued."""
    links = {link[0]: link for link in ui["links"]}
    prompt = {}
    for node in nodes_of(ui):
        inputs = widget_values(node, schemas[node["type"]])
        for each in node["inputs"]:
            if each["link"] is not None:
                _, origin, slot, *_ = links[each["link"]]
                inputs[each["name"]] = [str(origin), slot]
        if node["type"] == "SaveVideo":
            inputs["format.codec"] = inputs["codec"]  # its name from ComfyUI 0.33 on
        prompt[str(node["id"])] = {
            "class_type": node["type"],
            "inputs": inputs,
            "_meta": {"title": node.get("title", schemas[node["type"]]["display_name"])},
        }
    return prompt
