"""A graph as it is described: nodes in columns, from left to right."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
OURS = ROOT / "tests" / "schemas.json"
CORE = Path(__file__).with_name("core_nodes.json")

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
NOTE = "MarkdownNote"
TITLE, MARGIN, HEADING, GAP = 30, 20, 60, 30
"""Pixels: a node's title bar, around the nodes of a group, its own title, between things."""

HEIGHTS = {
    "LoadSwiftModels": 660,
    "MotionReference360P": 620,
    "SegmentOverlapConfig": 530,
    "CSG2KSampler": 980,
    "SwiftVAEDecodeToVideo": 170,
    "LoadImage": 340,
    "LoadVideo": 340,
    "GetVideoComponents": 120,
    "ImageFromBatch": 100,
    "ImageScale": 160,
    "CLIPTextEncode": 180,
    "CLIPLoader": 120,
    "VAELoader": 70,
    "UNETLoader": 100,
    "LoraLoaderModelOnly": 100,
    "CreateVideo": 120,
    "SaveVideo": 130,
}
"""With room for what they show when they have run, in the page's both renderers."""

PICTURE_SHAPE = 0.65
"""Height by width of a video that is shown."""


@dataclass(frozen=True)
class ModelFile:
    """A published file.

    Attributes:
        url: where it can be downloaded; ends with its name.
        directory: its folder in ComfyUI's models.
        gigabytes: its size, roughly.
    """

    url: str
    directory: str
    gigabytes: float

    @property
    def name(self) -> str:
        """Give its name on disk."""
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class Output:
    """An output of a node, to be given to another."""

    node: Node
    slot: int
    type: str


@dataclass(frozen=True, eq=False)
class Node:
    """A node on the canvas; `node["name"]` is one of its outputs."""

    id: int
    type: str
    title: str | None
    display_name: str
    place: tuple[int, int, int, int]
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    values: dict[str, Any]
    files: tuple[ModelFile, ...]
    is_ours: bool

    def __getitem__(self, name: str) -> Output:
        for slot, output in enumerate(self.outputs):
            if output["name"] == name:
                return Output(self, slot, output["type"])
        raise KeyError(f"{self.type} has no output {name}")


@dataclass
class Column:
    """A group."""

    title: str
    colour: str
    left: int
    width: int
    bottom: int = 0

    def put(self, height: int) -> tuple[int, int, int, int]:
        """Give the next place in it: left, top, width, height."""
        top = self.bottom + GAP + TITLE if self.bottom else 0
        self.bottom = top + height
        return self.left, top, self.width, height


@dataclass
class Canvas:
    """Nodes in columns, from left to right; each column is a group with a title."""

    name: str
    _ours: dict[str, Any] = field(default_factory=lambda: json.loads(OURS.read_text()))
    _core: dict[str, Any] = field(default_factory=lambda: json.loads(CORE.read_text()))
    nodes: list[Node] = field(default_factory=list[Node])
    columns: list[Column] = field(default_factory=list[Column])

    def column(self, title: str, colour: str, width: int) -> None:
        """Begin a column: what is added from now on stands in it."""
        last = self.columns[-1] if self.columns else None
        left = last.left + last.width + 2 * MARGIN + GAP if last else 0
        self.columns.append(Column(title, colour, left, width))

    def note(self, text: str, title: str, height: int) -> None:
        """Add a note."""
        place = self.columns[-1].put(height)
        values = {"text": text}
        number = len(self.nodes) + 1
        self.nodes.append(Node(number, NOTE, title, NOTE, place, [], [], values, (), is_ours=False))

    def add(
        self,
        node_type: str,
        title: str | None = None,
        *,
        files: Iterable[ModelFile] = (),
        **given: Any,
    ) -> Node:
        """Add a node.

        Args:
            given: its inputs: an output of another node, or the widget's value. Widgets that are
                left out have their defaults.

        Raises:
            TypeError: an input is not its own, or one that it needs is left out.
        """
        schema = (self._ours | self._core)[node_type]
        names = [each["name"] for each in schema["inputs"]]
        if strange := given.keys() - set(names):
            raise TypeError(f"{node_type} has no input {strange}")
        values = {
            each["name"]: _default(each) for each in schema["inputs"] if is_widget(each)
        } | given
        for each in schema["inputs"]:
            if values.get(each["name"]) is None and not each["optional"]:
                raise TypeError(f"{node_type} needs {each['name']}")
        node = Node(
            id=len(self.nodes) + 1,
            type=node_type,
            title=title,
            display_name=schema["display_name"],
            place=self.columns[-1].put(self._height(node_type)),
            # The page puts sockets before widgets.
            inputs=sorted(schema["inputs"], key=is_widget),
            outputs=schema["outputs"],
            values=values,
            files=tuple(files),
            is_ours=node_type in self._ours,
        )
        self.nodes.append(node)
        return node

    def _height(self, node_type: str) -> int:
        shown = PICTURE_SHAPE * self.columns[-1].width if node_type == "SaveVideo" else 0
        return HEIGHTS[node_type] + round(shown)


def is_widget(described: dict[str, Any]) -> bool:
    """Tell a value that is set on the node from a socket."""
    return described["type"] in WIDGETS


def _default(described: dict[str, Any]) -> Any:
    """Give what the page begins with."""
    return described.get("default", described.get("options", [None])[0])
