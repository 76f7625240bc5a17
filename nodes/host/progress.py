"""The core's progress on ComfyUI's bar, with a picture of what is being made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import comfy.utils

from ...swift_core.progress import Phase, Progress
from .memory import stop_if_interrupted

if TYPE_CHECKING:
    from .previews import Previewer

PREVIEW_WIDTH = 512


class NodeProgress:
    """An observer that shows progress and stops when the user cancels.

    Args:
        units: of each phase that the node runs, how many there are in all.
        previewer: makes the pictures; None shows none.
    """

    def __init__(self, units: Mapping[Phase, int], previewer: Previewer | None = None) -> None:
        self._units = units
        self._total = sum(units.values())
        self._bar = comfy.utils.ProgressBar(self._total)
        self._previewer = previewer

    def __call__(self, progress: Progress) -> None:
        """Show one unit of work."""
        stop_if_interrupted()
        phases = list(self._units)
        before = sum(self._units[phase] for phase in phases[: phases.index(progress.phase)])
        done = before + progress.segment * progress.steps + progress.step
        preview: Any = None
        if self._previewer is not None and progress.preview is not None:
            preview = ("JPEG", self._previewer.show(progress), PREVIEW_WIDTH)
        self._bar.update_absolute(done, self._total, preview)
