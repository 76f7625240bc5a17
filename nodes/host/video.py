"""VIDEO: a file that a node has written, as core's nodes take it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.latest import InputImpl

AUTOMATIC = "auto"


class QuickTimeVideo(InputImpl.VideoFromFile):
    """A ProRes file that core's Save Video takes over as it is.

    Save Video names every file .mp4, and what writes that container takes no ProRes. QuickTime's
    does, and players know the one from the other by what is in the file.
    """

    def save_to(self, path: Any, **asked: Any) -> None:
        """Write the file, and what comes with it, to a place that another node has named."""
        is_kept = asked.get("codec", AUTOMATIC) == AUTOMATIC
        if not (isinstance(path, str) and is_kept):
            super().save_to(path, **asked)
            return
        beside = Path(path).with_suffix(".mov")
        try:
            super().save_to(str(beside), **asked)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def written_video(path: Path) -> Any:
    """Give a video file as VIDEO."""
    kind = QuickTimeVideo if path.suffix == ".mov" else InputImpl.VideoFromFile
    return kind(str(path))
