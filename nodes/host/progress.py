"""The core's progress on ComfyUI's bar, with a picture of what is being made."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import comfy.utils

from ...swift_core.progress import Phase, Progress
from .memory import stop_if_interrupted

if TYPE_CHECKING:
    from .previews import Previewer

PREVIEW_WIDTH = 512


class NodeProgress:
    """An observer that shows progress, keeps time, and stops when the user cancels.

    Args:
        units: of each phase that the node runs, how many there are in all.
        previewer: makes the pictures; None shows none.

    Attributes:
        seconds: that each phase took so far, with the loading of its model.
    """

    def __init__(self, units: Mapping[Phase, int], previewer: Previewer | None = None) -> None:
        self._units = units
        self._total = sum(units.values())
        self._bar = comfy.utils.ProgressBar(self._total)
        self._previewer = previewer
        self.seconds: dict[Phase, float] = {}
        self.start()

    def __call__(self, progress: Progress) -> None:
        """Show one unit of work."""
        stop_if_interrupted()
        self.lap(progress.phase)
        phases = list(self._units)
        before = sum(self._units[phase] for phase in phases[: phases.index(progress.phase)])
        done = before + progress.segment * progress.steps + progress.step
        preview: Any = None
        if self._previewer is not None and progress.preview is not None:
            preview = ("JPEG", self._previewer.show(progress), PREVIEW_WIDTH)
        self._bar.update_absolute(done, self._total, preview)

    def start(self) -> None:
        """Keep time from now on."""
        self._last = time.perf_counter()

    def lap(self, phase: Phase) -> None:
        """Count the time since the last unit of work to a phase: also what comes after its last."""
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now
