"""Whether the disk has room for what a run will write, found out before it begins."""

import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from ..errors import OutputError


def check_disk(files: Mapping[Path, int]) -> None:
    """Refuse a run whose files will not fit.

    Args:
        files: about how many bytes each will have.

    Raises:
        OutputError: naming the disk's folder, what is free and what is wanted.
    """
    wanted: dict[int, int] = defaultdict(int)
    folders: dict[int, Path] = {}
    for path, nbytes in files.items():
        folder = _existing(path.absolute().parent)
        device = folder.stat().st_dev
        folders.setdefault(device, folder)
        wanted[device] += nbytes
    for device, nbytes in wanted.items():
        free = shutil.disk_usage(folders[device]).free
        if free < nbytes:
            raise OutputError(
                f"the disk of {folders[device]} has {free / 1e9:.2f} GB free, and about "
                f"{nbytes / 1e9:.2f} GB will be written; make room, or choose another place."
            )


def _existing(folder: Path) -> Path:
    """Give a folder, or the first above it that is there."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder
