"""The nodes' schemas: what they are, what they were, and what may never change between the two.

Graphs that people have saved name nodes, inputs and outputs, and hold values by their order. So
schemas only grow: by optional inputs at the end of the optional ones, and by outputs at the end.

`python -m tests.schemas` records what has grown in schemas.json, and refuses what has broken.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
STAND_IN = Path(__file__).parent / "comfyui"
RECORDED = Path(__file__).with_name("schemas.json")
KEPT = ("default", "min", "max", "step", "options", "control_after_generate")

LOAD = """
import asyncio, importlib.util, json, sys

# As ComfyUI's load_custom_node does it, from a folder whose name is no Python identifier.
name, root = sys.argv[1:]
spec = importlib.util.spec_from_file_location(
    name, root + "/__init__.py", submodule_search_locations=[root])
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
spec.loader.exec_module(module)
assert not hasattr(module, "NODE_CLASS_MAPPINGS"), "then ComfyUI never calls comfy_entrypoint"

async def load():
    extension = await module.comfy_entrypoint()
    return await extension.get_node_list()

said = {}
for node in asyncio.run(load()):
    schema = node.define_schema()
    schema.validate()
    said[schema.node_id] = schema.info() | {"aliases": getattr(schema, "search_aliases", None)}
print("\\n" + json.dumps(said))
"""


def load_pack(version="oldest"):
    """Load the pack against the stand-in, in a Python of its own; give all nodes' /object_info."""
    said = subprocess.run(
        [sys.executable, "-c", LOAD, "some where/custom_nodes/SwiftI2V-main (1)", str(ROOT)],
        env=os.environ | {"PYTHONPATH": str(STAND_IN), "STAND_IN": version},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout.rsplit("\n", 2)[-2])


def schemas_of(infos):
    """Keep of each node's /object_info what saved graphs depend on."""
    return {name: schema_of(info) for name, info in infos.items()}


def schema_of(info):
    inputs = [
        input_of(name, group, *described)
        for group in ("required", "optional")
        for name, described in info["input"].get(group, {}).items()
    ]
    outputs = [
        {"name": name, "type": kind}
        for name, kind in zip(info["output_name"], info["output"], strict=True)
    ]
    kept = {key: info[key] for key in ("display_name", "category", "output_node")}
    return kept | {"inputs": inputs, "outputs": outputs}


def input_of(name, group, kind, details=None):
    """Combos were once written as a bare list of options; files are those of the machine."""
    details = dict(details or {})
    if isinstance(kind, list):
        kind, details["options"] = "COMBO", kind
    if details.get("options", [])[:1] == ["none"]:
        details["options"] = ["none"]
    # Not `in (None, False)`: 0 is a value.
    kept = {key: details[key] for key in KEPT if details.get(key) is not None}
    return {"name": name, "type": kind, "optional": group == "optional"} | kept


def recorded():
    return json.loads(RECORDED.read_text(encoding="utf-8"))


def broken(was, now):
    """Give a sentence for everything in `now` that a graph saved with `was` would stumble over."""
    faults = [f"{node} is gone" for node in was if node not in now]
    for node in was.keys() & now.keys():
        faults += [f"{node}: {fault}" for fault in _broken_inputs(was[node], now[node])]
        faults += [f"{node}: {fault}" for fault in _broken_outputs(was[node], now[node])]
    return faults


def _broken_inputs(was, now):
    for optional in (False, True):
        before = [each for each in was["inputs"] if each["optional"] == optional]
        after = [each for each in now["inputs"] if each["optional"] == optional]
        names = [each["name"] for each in after]
        group = "optional" if optional else "required"
        if names[: len(before)] != [each["name"] for each in before]:
            yield f"the {group} inputs began otherwise, they begin now with {names}"
            continue
        if not optional and len(after) > len(before):
            yield f"{names[len(before) :]} are new and required: graphs do not have them"
        for old, new in zip(before, after, strict=False):
            yield from _broken_input(old, new)


def _broken_input(was, now):
    name = was["name"]
    if not set(was["type"].split(",")) <= set(now["type"].split(",")):
        yield f"{name} takes {now['type']}, it took {was['type']}"
    if now.get("default") != was.get("default"):
        yield f"{name} is {now.get('default')} if left out, it was {was.get('default')}"
    if gone := set(was.get("options", ())) - set(now.get("options", ())):
        yield f"{name} no longer offers {sorted(gone)}"
    if now.get("min", 0) > was.get("min", 0) or now.get("max", 0) < was.get("max", 0):
        yield f"{name} takes a smaller range"
    if now.get("control_after_generate") != was.get("control_after_generate"):
        yield f"{name}'s widget takes another number of values"


def _broken_outputs(was, now):
    before, after = was["outputs"], now["outputs"]
    if after[: len(before)] != before:
        yield f"the outputs began otherwise, they begin now with {after}"


def main():
    now = schemas_of(load_pack())
    if RECORDED.exists() and (faults := broken(recorded(), now)):
        sys.exit("\n".join(("not recorded, saved graphs would break:", *faults)))
    RECORDED.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
