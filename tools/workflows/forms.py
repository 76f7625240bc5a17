"""ComfyUI's two forms of a graph: as its page saves it, and as programs queue it."""

from __future__ import annotations

import uuid
from typing import Any

from .canvas import HEADING, MARGIN, NOTE, TITLE, Canvas, Node, Output, is_widget

PACK = {"cnr_id": "swift-i2v", "ver": "0.1.0"}
COMFYUI = {"cnr_id": "comfy-core", "ver": "0.3.64"}
OPTIONAL_SHAPE = 7
"""How the page draws the socket of an optional input."""


def api_form(canvas: Canvas) -> dict[str, Any]:
    """Give the form that programs queue."""
    return {
        str(node.id): {
            "class_type": node.type,
            "inputs": _api_inputs(node),
            "_meta": {"title": node.title or node.display_name},
        }
        for node in canvas.nodes
        if node.type != NOTE
    }


def ui_form(canvas: Canvas) -> dict[str, Any]:
    """Give the form that the page opens."""
    links = _links(canvas)
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"swift-i2v/workflows/{canvas.name}")),
        "revision": 0,
        "last_node_id": len(canvas.nodes),
        "last_link_id": len(links),
        "nodes": [_ui_node(node, order, links) for order, node in enumerate(canvas.nodes)],
        "links": links,
        "groups": [
            {
                "id": number,
                "title": column.title,
                "bounding": [
                    column.left - MARGIN,
                    -TITLE - HEADING,
                    column.width + 2 * MARGIN,
                    TITLE + HEADING + column.bottom + MARGIN,
                ],
                "color": column.colour,
                "font_size": 24,
                "flags": {},
            }
            for number, column in enumerate(canvas.columns, 1)
        ],
        "config": {},
        "extra": {"ds": {"scale": 0.6, "offset": [80, 150]}},
        "version": 0.4,
    }


def _links(canvas: Canvas) -> list[list[Any]]:
    links: list[list[Any]] = []
    for node in canvas.nodes:
        for slot, each in enumerate(node.inputs):
            value = node.values.get(each["name"])
            if isinstance(value, Output):
                links.append([len(links) + 1, value.node.id, value.slot, node.id, slot, value.type])
    return links


def _api_inputs(node: Node) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    for name, value in node.values.items():
        if isinstance(value, Output):
            inputs[name] = [str(value.node.id), value.slot]
        elif value is not None:
            inputs[name] = value
    if node.type == "SaveVideo":
        # What was `codec` is `format.codec` in ComfyUI 0.33; either takes a graph with both.
        inputs["format.codec"] = inputs["codec"]
    return inputs


def _ui_node(node: Node, order: int, links: list[list[Any]]) -> dict[str, Any]:
    left, top, width, height = node.place
    properties: dict[str, Any] = {}
    if node.type != NOTE:
        source = PACK if node.is_ours else COMFYUI
        properties = {**source, "Node name for S&R": node.type}
    if node.files:
        properties["models"] = [
            {"name": file.name, "url": file.url, "directory": file.directory} for file in node.files
        ]
    made: dict[str, Any] = {
        "id": node.id,
        "type": node.type,
        "pos": [left, top],
        "size": [width, height],
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": [_ui_input(node, slot, links) for slot in range(len(node.inputs))],
        "outputs": [
            {
                **output,
                "links": [link[0] for link in links if link[1:3] == [node.id, slot]] or None,
            }
            for slot, output in enumerate(node.outputs)
        ],
        "properties": properties,
        "widgets_values": _widget_values(node),
    }
    if node.title:  # or else the page's own, in the reader's language
        made["title"] = node.title
    if node.type == NOTE:
        made |= {"color": "#222", "bgcolor": "#000"}
    return made


def _ui_input(node: Node, slot: int, links: list[list[Any]]) -> dict[str, Any]:
    described = node.inputs[slot]
    made: dict[str, Any] = {"name": described["name"], "type": described["type"]}
    if described["optional"]:
        made["shape"] = OPTIONAL_SHAPE
    if is_widget(described):
        made["widget"] = {"name": described["name"]}
    made["link"] = next((link[0] for link in links if link[3:5] == [node.id, slot]), None)
    return made


def _widget_values(node: Node) -> list[Any]:
    """List the values of all widgets, among them those that the page itself adds."""
    if node.type == NOTE:
        return [node.values["text"]]
    values: list[Any] = []
    for described in filter(is_widget, node.inputs):
        value = node.values[described["name"]]
        values.append(described["default"] if isinstance(value, Output) else value)
        if described.get("control_after_generate"):
            values.append("fixed")
        if described.get("upload"):
            values.append("image")
    return values
