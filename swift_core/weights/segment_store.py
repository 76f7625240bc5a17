"""Finished segments on disk, so that a run that was stopped goes on where it was.

One folder for a run, one file for a segment. Whoever opens a store chooses a folder whose name
stands for everything that the run depends on, but for seeds of single segments: a segment has seen
those before it and none after it, so with a seed of its own it is another one, and so are those
that follow.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import (
    load_file,  # pyright: ignore[reportUnknownVariableType]
    save_file,  # pyright: ignore[reportUnknownVariableType]
)

from ..errors import OutputError
from ..files import part_file
from ..shapes import Float, Tensor

MOST_TAKES = 4
"""Files that are kept of one segment, with this seed and that."""

_TENSOR = "targets"
_log = logging.getLogger(__name__)


class SegmentStore:
    """Keep the targets of finished segments in a folder.

    Args:
        folder: made when there is something to keep.
        segment_seeds: seeds of their own for some segments, by index.
    """

    def __init__(self, folder: Path, segment_seeds: Mapping[int, int]) -> None:
        self.folder = folder
        self._seeds = segment_seeds

    def load(self, shapes: Mapping[int, tuple[int, ...]]) -> dict[int, Float[Tensor, "b c m h w"]]:
        """Read what is there; a file that is broken or of another shape counts as not there.

        Args:
            shapes: of the targets of every segment, by index.
        """
        found: dict[int, Tensor] = {}
        for index, shape in shapes.items():
            path = self._path(index)
            if not path.exists():
                continue
            try:
                # A copy: Windows does not let a file go that is mapped into memory.
                targets: Tensor = load_file(path)[_TENSOR].clone()
            except (SafetensorError, OSError, KeyError) as error:
                _log.warning("%s cannot be read (%s): its segment is sampled again", path, error)
                continue
            if tuple(targets.shape) == shape:
                found[index] = targets
                with suppress(OSError):  # of what is kept the oldest goes first
                    path.touch()
        return found

    def save(self, index: int, targets: Float[Tensor, "b c m h w"]) -> None:
        """Keep a segment; a full disk costs the chance to go on later, not the run."""
        try:
            with part_file(self._path(index)) as part:
                save_file({_TENSOR: targets.contiguous().cpu().float()}, part)
            for path in _newest_first(self.folder.glob(f"segment-{index}[-.]*"))[MOST_TAKES:]:
                path.unlink(missing_ok=True)
        except (OutputError, SafetensorError, OSError) as error:
            _log.warning("segment %d is not kept for later: %s", index, error)

    def _path(self, index: int) -> Path:
        """Name the file of a segment by the seeds that it depends on: its own, and earlier ones."""
        seeds = sorted((at, seed) for at, seed in self._seeds.items() if at <= index)
        take = f"-{hashlib.sha256(json.dumps(seeds).encode()).hexdigest()[:16]}" if seeds else ""
        return self.folder / f"segment-{index}{take}.safetensors"


def forget_old(parent: Path, *, most: int) -> None:
    """Of several runs' folders leave the newest ones.

    Args:
        parent: of the folders.
        most: how many to leave.
    """
    for path in _newest_first(path for path in parent.glob("*") if path.is_dir())[most:]:
        shutil.rmtree(path, ignore_errors=True)


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)
