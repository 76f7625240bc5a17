"""The core's progress on ComfyUI's bar, with a picture of what is being made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.utils
import torch
from einops import rearrange
from PIL import Image
from torch.nn import functional as F

from ...swift_core.progress import Phase, Progress
from ...swift_core.shapes import Float, Tensor
from .memory import stop_if_interrupted
from .vae import Colours

PREVIEW_WIDTH = 512
THUMBNAILS = 8
"""Columns of the strip under the preview."""


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


class Previewer:
    """Draw what is being sampled, over a strip with one thumbnail for each segment.

    Args:
        colours: of the latents.
    """

    def __init__(self, colours: Colours) -> None:
        self._factors, self._bias = colours
        self._thumbnails: dict[int, Image.Image] = {}

    def show(self, progress: Progress) -> Image.Image:
        """Draw the clean estimate in the middle of the segment, and what is known of the others."""
        assert progress.preview is not None, "asked only where there is one"
        latent = progress.preview
        picture = self._colours(latent[0, :, latent.shape[2] // 2])
        scale = PREVIEW_WIDTH / picture.width
        large = picture.resize((PREVIEW_WIDTH, max(1, round(picture.height * scale))))
        if progress.segments == 1:
            return large
        columns = min(THUMBNAILS, progress.segments)
        width = PREVIEW_WIDTH // columns
        height = max(1, round(large.height * width / PREVIEW_WIDTH))
        self._thumbnails[progress.segment] = large.resize((width, height))
        rows = -(-progress.segments // columns)
        sheet = Image.new("RGB", (PREVIEW_WIDTH, large.height + rows * height))
        sheet.paste(large, (0, 0))
        for segment, thumbnail in self._thumbnails.items():
            row, column = divmod(segment, columns)
            sheet.paste(thumbnail, (column * width, large.height + row * height))
        return sheet

    def _colours(self, latent: Float[Tensor, "c h w"]) -> Image.Image:
        values = rearrange(latent.float().cpu(), "c h w -> h w c")
        colours = F.linear(values, self._factors.T, self._bias).add(1).div(2).clamp(0, 1)
        return Image.fromarray(colours.mul(255).round().to(torch.uint8).numpy())
