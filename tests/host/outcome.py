"""What became of a graph."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Message:
    """Something the server told its client while it worked.

    Attributes:
        type: the server's own word, or "preview" for a picture.
        data: what came with it; of a preview its `node_id` and `image_type`.
        seconds: since the graph was queued.
        image: a preview's JPEG or PNG file.
    """

    type: str
    data: dict[str, Any]
    seconds: float
    image: bytes = b""


@dataclass(frozen=True)
class Failure:
    """Why a graph did not come to its end.

    Attributes:
        kind: "refused" before anything ran, "failed" by an exception, or "interrupted".
        message: in one piece, as a person would be shown it.
        node_id: where; empty if the whole graph was refused.
        details: all that the server said.
    """

    kind: Literal["refused", "failed", "interrupted"]
    message: str
    node_id: str
    details: dict[str, Any] = field(repr=False)


class GraphError(AssertionError):
    """A graph that a test wanted to succeed did not; `failure` says why."""

    def __init__(self, failure: Failure):
        super().__init__(f"{failure.kind} at node {failure.node_id or '?'}: {failure.message}")
        self.failure = failure


@dataclass(frozen=True)
class Outcome:
    """A graph that ended, one way or the other.

    Attributes:
        prompt_id: the server's name for this run; empty if the graph was refused.
        outputs: by node, what the page is given to show.
        kept: by name, what `Graph.keep` brought over: a tensor or a plain value, or for LATENT,
            CONDITIONING and VIDEO a flat dict such as {"samples": …}, {"0.1.pooled_output": …}.
        messages: in the order they came.
        seconds: from queueing to the end.
        error: None if all went well.
    """

    prompt_id: str
    outputs: dict[str, dict[str, Any]]
    kept: dict[str, Any]
    messages: list[Message]
    seconds: float
    error: Failure | None

    @property
    def previews(self) -> list[Message]:
        return [message for message in self.messages if message.type == "preview"]

    @property
    def executed(self) -> list[str]:
        """The nodes that ran, in order; those answered from the cache are not among them."""
        return [
            message.data["node"]
            for message in self.messages
            if message.type == "executing" and message.data["node"]
        ]

    def progress(self, node_id: str) -> list[tuple[float, float]]:
        """Give a node's (value, maximum) at its start and whenever one of them changed."""
        seen: list[tuple[float, float]] = []
        for message in self.messages:
            state = message.data.get("nodes", {}) if message.type == "progress_state" else {}
            if node_id in state:
                now = (state[node_id]["value"], state[node_id]["max"])
                if seen[-1:] != [now]:
                    seen.append(now)
        return seen

    def files(self, node_id: str) -> list[dict[str, str]]:
        """Give the files a node put out, in the form that `Server.view` takes."""
        return [
            item
            for shown in self.outputs.get(node_id, {}).values()
            if isinstance(shown, list)
            for item in shown
            if isinstance(item, dict) and "filename" in item
        ]
