"""Runs that were stopped: their finished segments, under a name for all that they depend on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import folder_paths

from ...swift_core.segments.plan import SegmentPlan
from ...swift_core.segments.sampler import Finished
from ...swift_core.shapes import Float, Tensor
from ...swift_core.weights.segment_store import SegmentStore, forget_old

if TYPE_CHECKING:
    from comfy_execution.graph import DynamicPrompt

MOST_RUNS = 4
"""Stopped runs that are kept; a 2K run of 81 frames takes 60 MB."""

_WITHOUT_EFFECT = ("memory_gb",)
"""Inputs that change no number: a run that was short of memory may go on with less."""


def open_store(
    graph: DynamicPrompt, node: str, reference: Float[Tensor, "1 c t h w"]
) -> SegmentStore:
    """Open the store of a run.

    Args:
        graph: the prompt, with what nodes have put into it: it names files, prompts, settings.
        node: id of the sampler in it; what does not lead to it does not matter.
        reference: the encoded picture and motion clip, whatever made them.
    """
    digest = hashlib.sha256(json.dumps(_ancestors(graph, node), sort_keys=True).encode())
    digest.update(reference.contiguous().cpu().numpy().tobytes())
    parent = Path(folder_paths.get_user_directory()) / "swift_i2v" / "unfinished"
    folder = parent / digest.hexdigest()[:32]
    if not folder.is_dir():
        forget_old(parent, most=MOST_RUNS - 1)
    return SegmentStore(folder)


def finished_of(store: SegmentStore, plan: SegmentPlan, reference: Tensor) -> Finished:
    """Read what the store has of a plan's segments, and have it keep the others."""
    batch, channels, _, height, width = reference.shape
    shapes = {
        segment.index: (batch, channels, len(segment.targets), height, width)
        for segment in plan.segments
    }
    found = {index: made.to(reference.device) for index, made in store.load(shapes).items()}
    return Finished(targets=found, keep=store.save)


def _ancestors(graph: DynamicPrompt, node: str) -> dict[str, Any]:
    """Collect a node and everything that leads to it."""
    found: dict[str, Any] = {}
    waiting = [node]
    while waiting:
        name = waiting.pop()
        if name in found or not graph.has_node(name):
            continue
        entry = graph.get_node(name)
        settings = {key: of for key, of in entry["inputs"].items() if key not in _WITHOUT_EFFECT}
        found[name] = [entry["class_type"], settings]
        for value in entry["inputs"].values():
            if isinstance(value, list) and len(value) == 2:  # a link: node id and output
                waiting.append(str(value[0]))
    return found
