"""Graphs in the form that programs queue (API JSON), written as they are read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """A node of a graph; `node[0]` is its first output, to be given to another node."""

    id: str

    def __getitem__(self, output: int) -> list:
        return [self.id, output]


class Graph:
    """Builds `{"1": {"class_type": …, "inputs": {…}}, …}`.

    >>> graph = Graph()
    >>> picture = graph.add("EmptyImage", width=64, height=64, batch_size=1, color=0)
    >>> shown = graph.add("PreviewImage", images=picture[0])
    >>> graph.prompt[shown.id]["inputs"]
    {'images': ['1', 0]}
    """

    def __init__(self):
        self.prompt: dict[str, dict] = {}

    def add(self, class_type: str, /, **inputs) -> Node:
        """Add a node. Inputs with a point in their name come as `**{"format.codec": "h264"}`."""
        node = Node(str(len(self.prompt) + 1))
        self.prompt[node.id] = {"class_type": class_type, "inputs": inputs}
        return node

    def keep(self, output: list, name: str) -> Node:
        """Bring an output, of whatever type, to the test: it is `outcome.kept[name]` there."""
        return self.add("HostTestKeep", value=output, name=name)
