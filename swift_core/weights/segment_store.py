"""Finished segments on disk, so that a run that was stopped goes on where it was.

One folder for a run, one file for a segment. Whoever opens a store chooses a folder whose name
stands for everything that the run depends on.
"""

import logging
import re
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import (
    load_file,  # pyright: ignore[reportUnknownVariableType]
    save_file,  # pyright: ignore[reportUnknownVariableType]
)

from ..errors import OutputError
from ..files import part_file
from ..shapes import Float, Tensor

_TENSOR = "targets"
_FILE = re.compile(r"segment-(\d{1,6})\.safetensors")
_log = logging.getLogger(__name__)


class SegmentStore:
    """Keep the targets of finished segments in a folder.

    Args:
        folder: made when there is something to keep.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, shapes: dict[int, tuple[int, ...]]) -> dict[int, Float[Tensor, "b c m h w"]]:
        """Read what is there; a file that is broken or of another shape counts as not there.

        Args:
            shapes: of the targets of every segment, by index.
        """
        found: dict[int, Tensor] = {}
        for path in sorted(self.folder.glob("segment-*.safetensors")):
            name = _FILE.fullmatch(path.name)
            index = int(name[1]) if name else -1
            try:
                # A copy: Windows does not let a file go that is mapped into memory.
                targets: Tensor = load_file(path)[_TENSOR].clone()
            except (SafetensorError, OSError, KeyError) as error:
                _log.warning("%s cannot be read (%s): its segment is sampled again", path, error)
                continue
            if tuple(targets.shape) == shapes.get(index):
                found[index] = targets
        return found

    def save(self, index: int, targets: Float[Tensor, "b c m h w"]) -> None:
        """Keep a segment; a full disk costs the chance to go on later, not the run."""
        try:
            with part_file(self.folder / f"segment-{index}.safetensors") as part:
                save_file({_TENSOR: targets.contiguous().cpu().float()}, part)
        except (OutputError, SafetensorError, OSError) as error:
            _log.warning("segment %d is not kept for later: %s", index, error)


def forget_old(parent: Path, *, most: int) -> None:
    """Of several runs' folders leave the newest ones.

    Args:
        parent: of the folders.
        most: how many to leave.
    """
    folders = [path for path in parent.glob("*") if path.is_dir()]
    folders.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in folders[most:]:
        shutil.rmtree(path, ignore_errors=True)
