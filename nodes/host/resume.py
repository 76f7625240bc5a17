"""Runs that go on where they were: their segments, under a name for all that they depend on.

Segments stay when all are there: decoding them is still to come, which takes the most memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import folder_paths
import torch

from ...swift_core.segments.plan import SegmentPlan
from ...swift_core.segments.sampler import Finished
from ...swift_core.shapes import Tensor
from ...swift_core.weights.segment_store import SegmentStore, forget_old
from .files import find_file

if TYPE_CHECKING:
    from comfy_execution.graph import DynamicPrompt

MOST_RUNS = 4
"""Runs whose segments are kept; a 2K run of 81 frames takes 60 MB."""

_WITHOUT_EFFECT = {
    "LoadSwiftModels": ("memory_gb",),
    "SegmentOverlapConfig": ("plan_width", "plan_height", "plan_frames"),
}
"""Inputs of ours that change no number: a run that was short of memory may go on with less."""

_OF_SAMPLER = ("resume", "segment_seeds")
"""Inputs of the sampler itself that make no other run: by seeds of their own a run's segments
differ, and the store tells these apart."""

_MODEL_FOLDERS = ("diffusion_models", "checkpoints", "vae", "text_encoders", "loras")

_MAKING = 3
"""How references and segments are made: another number when the same inputs come to make others."""

_log = logging.getLogger(__name__)


def open_store(
    graph: DynamicPrompt,
    node: str,
    shown: Iterable[Tensor],
    segment_seeds: Mapping[int, int],
) -> SegmentStore | None:
    """Open the store of a run; None if nothing tells this run from others.

    Args:
        graph: the prompt, with what nodes have put into it: it names files, prompts, settings.
        node: id of the sampler in it; what does not lead to it does not matter.
        shown: picture and motion clip, whatever made them. Not their encoding: on a card its last
            bits depend on the bands that it was made in, and so on what memory was free. Those of a
            clip that Stage I makes again may as well.
        segment_seeds: seeds of their own for some segments: what comes before them is kept.
    """
    try:
        words = json.dumps(_ancestors(graph, node), sort_keys=True)
    except (TypeError, ValueError) as error:  # nodes may put any object into a graph that they make
        _log.warning("SwiftI2V: segments are not kept; an input is no plain value: %s", error)
        return None
    digest = hashlib.sha256(f"{_MAKING} {words}".encode())
    for tensor in shown:
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{tuple(values.shape)} {values.dtype}".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy())
    parent = Path(folder_paths.get_user_directory()) / "swift_i2v" / "segments"
    folder = parent / digest.hexdigest()[:32]
    if not folder.is_dir():
        forget_old(parent, most=MOST_RUNS - 1)
    return SegmentStore(folder, segment_seeds)


def finished_of(store: SegmentStore | None, plan: SegmentPlan, reference: Tensor) -> Finished:
    """Read what the store has of a plan's segments, and have it keep the others."""
    if store is None:
        return Finished()
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
        kind = entry["class_type"]
        idle = _OF_SAMPLER if name == node else _WITHOUT_EFFECT.get(kind, ())
        settings = {key: of for key, of in entry["inputs"].items() if key not in idle}
        found[name] = [kind, settings, _model_files(settings.values())]
        for value in settings.values():
            if isinstance(value, list) and len(value) == 2:  # a link: node id and output
                waiting.append(str(value[0]))
    return found


def _model_files(values: Iterable[Any]) -> list[list[Any]]:
    """Tell the model files that inputs name from others that come to have their names."""
    found: list[list[Any]] = []
    for value in values:
        for folder in _MODEL_FOLDERS:
            path = find_file(folder, value) if isinstance(value, str) else None
            if path is not None:
                status = path.stat()
                found.append([folder, value, status.st_size, status.st_mtime_ns])
    return found
