"""The graphs that are shipped, held against the schemas; tests/host runs them."""

import itertools

import pytest
from PIL import Image

from swift_core.geometry import PixelShape
from swift_core.segments.plan import SegmentSettings
from swift_core.stages.plan import plan_generation
from swift_core.weights.set_file import DEFAULT_RECIPE
from tests.page import (
    NAMES,
    NOTES,
    WIDGETS,
    WORKFLOWS,
    all_schemas,
    nodes_of,
    ordered,
    read_api,
    read_ui,
    to_api,
    widget_values,
)
from tests.schemas import recorded
from tools.workflows.__main__ import write_all

SCHEMAS = all_schemas()
FOLDERS = {
    "diffusion_models": ("unet_name", "motion_high", "motion_low", "detail"),
    "vae": ("vae_name", "motion_vae", "detail_vae"),
    "text_encoders": ("clip_name", "text_encoder"),
    "loras": ("lora_name", "motion_high_lora", "motion_low_lora", "detail_lora"),
}

each_graph = pytest.mark.parametrize("name", NAMES)


def find(api, class_type):
    return [node["inputs"] for node in api.values() if node["class_type"] == class_type]


def overlap(a, b):
    return all(a[i] < b[i] + b[i + 2] and b[i] < a[i] + a[i + 2] for i in (0, 1))


def box(node):
    """With its title bar."""
    (left, top), (width, height) = node["pos"], node["size"]
    return left, top - 30, width, height + 30


def inside(inner, outer):
    return all(
        outer[i] < inner[i] and inner[i] + inner[i + 2] < outer[i] + outer[i + 2] for i in (0, 1)
    )


def test_every_graph_has_its_api_form_and_its_picture():
    assert len(NAMES) == 5
    assert sorted(path.stem for path in (WORKFLOWS / "api").iterdir()) == NAMES
    assert sorted(path.stem for path in WORKFLOWS.glob("*.jpg")) == NAMES
    for name in NAMES:
        with Image.open(WORKFLOWS / f"{name}.jpg") as picture:
            assert picture.format == "JPEG"
            assert 256 <= max(picture.size) <= 1280


def test_the_files_are_what_the_tool_draws(tmp_path):
    write_all(tmp_path)
    drawn = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.json")}
    shipped = {path.relative_to(WORKFLOWS): path.read_text() for path in WORKFLOWS.rglob("*.json")}
    assert drawn == shipped, "draw them again: python -m tools.workflows"


@each_graph
def test_both_forms_say_the_same(name):
    assert to_api(read_ui(name), SCHEMAS) == read_api(name)


@each_graph
def test_links_are_said_the_same_at_both_ends(name):
    ui = read_ui(name)
    nodes = {node["id"]: node for node in ui["nodes"]}
    assert len(nodes) == len(ui["nodes"])
    assert max(nodes) == ui["last_node_id"]
    taken, given = set(), set()
    for number, origin, slot, target, place, kind in ui["links"]:
        output, entry = nodes[origin]["outputs"][slot], nodes[target]["inputs"][place]
        assert number in output["links"]
        assert number == entry["link"]
        assert output["type"] == kind
        assert kind in entry["type"].split(",")
        taken.add(number)
    for node in ui["nodes"]:
        given |= {entry["link"] for entry in node["inputs"]} - {None}
        given |= {number for output in node["outputs"] for number in output["links"] or ()}
    assert given == taken
    assert len(taken) == len(ui["links"]) == ui["last_link_id"]


@each_graph
def test_no_node_comes_before_what_it_needs(name):
    ui = read_ui(name)
    order = {node["id"]: node["order"] for node in ui["nodes"]}
    assert sorted(order.values()) == list(range(len(order)))
    for _, origin, _, target, *_ in ui["links"]:
        assert order[origin] < order[target]


@each_graph
def test_sockets_and_widgets_are_the_schemas(name):
    for node in nodes_of(read_ui(name)):
        schema = SCHEMAS[node["type"]]
        wanted = list(itertools.chain(*ordered(schema)))
        assert [(each["name"], each["type"]) for each in node["inputs"]] == [
            (each["name"], each["type"]) for each in wanted
        ]
        for entry, each in zip(node["inputs"], wanted, strict=True):
            assert entry.get("shape") == (7 if each["optional"] else None)
            has_widget = each["type"] in WIDGETS
            assert entry.get("widget") == ({"name": each["name"]} if has_widget else None)
        outputs = [{"name": each["name"], "type": each["type"]} for each in node["outputs"]]
        assert outputs == schema["outputs"]


@each_graph
def test_every_value_is_one_that_its_input_takes(name):
    for node in read_api(name).values():
        described = {each["name"]: each for each in SCHEMAS[node["class_type"]]["inputs"]}
        inputs = dict(node["inputs"])
        inputs.pop("format.codec", None)
        assert inputs.keys() <= described.keys()
        assert {key for key, each in described.items() if not each["optional"]} <= inputs.keys()
        for key, value in inputs.items():
            if not isinstance(value, list):
                check_value(f"{node['class_type']}.{key}", value, described[key])


def check_value(place, value, described):
    if described["type"] in ("INT", "FLOAT"):
        assert isinstance(value, int if described["type"] == "INT" else float), place
        assert described.get("min", 0) <= value <= described["max"], place
        if described["type"] == "INT":
            assert (value - described.get("min", 0)) % described.get("step", 1) == 0, place
    elif described["type"] == "COMBO":
        options = described["options"]
        assert value in options or (options == ["none"] and "." in value), place
    else:
        assert isinstance(value, {"STRING": str, "BOOLEAN": bool}[described["type"]]), place


@each_graph
def test_seeds_stay(name):
    for node in nodes_of(read_ui(name)):
        controls = [
            each for each in SCHEMAS[node["type"]]["inputs"] if each.get("control_after_generate")
        ]
        assert node["widgets_values"].count("fixed") == len(controls)


@each_graph
def test_every_model_file_says_where_it_is_published(name):
    ui = read_ui(name)
    notes = "".join(node["widgets_values"][0] for node in ui["nodes"] if node["type"] in NOTES)
    for node in nodes_of(ui):
        values = widget_values(node, SCHEMAS[node["type"]])
        chosen = {
            (value, folder)
            for folder, inputs in FOLDERS.items()
            for key in inputs
            if (value := values.get(key, "none")) != "none"
        }
        listed = node["properties"].get("models", [])
        assert {(file["name"], file["directory"]) for file in listed} == chosen, node["type"]
        for file in listed:
            assert file["url"].startswith("https://huggingface.co/")
            assert file["url"].endswith(f"/{file['name']}")
            assert f"models/{file['directory']}: [{file['name']}]({file['url']})" in notes


@each_graph
def test_nodes_say_which_pack_they_are_of(name):
    for node in nodes_of(read_ui(name)):
        assert node["properties"]["Node name for S&R"] == node["type"]
        ours = node["type"] in recorded()
        assert node["properties"]["cnr_id"] == ("swift-i2v" if ours else "comfy-core")


@each_graph
def test_nothing_covers_anything(name):
    ui = read_ui(name)
    boxes = [box(node) for node in ui["nodes"]]
    groups = [group["bounding"] for group in ui["groups"]]
    assert not [pair for pair in itertools.combinations(boxes, 2) if overlap(*pair)]
    assert not [pair for pair in itertools.combinations(groups, 2) if overlap(*pair)]
    for each in boxes:
        assert sum(inside(each, group) for group in groups) == 1


@each_graph
def test_the_plan_that_is_shown_is_that_of_the_run(name):
    api = read_api(name)
    (shown,), (sampler,) = find(api, "SegmentOverlapConfig"), find(api, "CSG2KSampler")
    (frames,) = [motion["pixel_frames"] for motion in find(api, "MotionReference360P")] or [
        cut["length"] for cut in find(api, "ImageFromBatch")
    ]
    planned = (shown["plan_width"], shown["plan_height"], shown["plan_frames"])
    assert planned == (sampler["width"], sampler["height"], frames)
    output = PixelShape(pixel_frames=frames, height=sampler["height"], width=sampler["width"])
    settings = SegmentSettings(segment_length=shown["segment_length"], neighbors=shown["neighbors"])
    recipes = {"motion_recipe": DEFAULT_RECIPE, "detail_recipe": DEFAULT_RECIPE}
    plan = plan_generation(output, settings, **recipes)  # or it raises
    assert plan.segments.latent_frames == (frames - 1) // 4 + 1


@each_graph
def test_guidance_has_something_to_keep_away_from(name):
    """And none is paid for where nothing guides."""
    api = read_api(name)
    for node in (*find(api, "MotionReference360P"), *find(api, "CSG2KSampler")):
        assert (node["cfg"] != 1) == ("negative" in node)


def test_a_graph_with_a_fault_is_not_passed():
    """The converter must see what the page would."""
    ui = read_ui("swift-tiny")
    sampler = next(node for node in ui["nodes"] if node["type"] == "CSG2KSampler")
    sampler["widgets_values"][0] += 64
    assert to_api(ui, SCHEMAS) != read_api("swift-tiny")
    sampler["widgets_values"].append("left over")
    with pytest.raises(AssertionError, match="left over"):
        to_api(ui, SCHEMAS)
