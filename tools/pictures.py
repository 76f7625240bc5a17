"""`python -m tools.pictures`: makes anew every picture of what the bundled models make.

The sample photograph, zoomed into and panned, as the command line makes it: for the README and
as thumbnails of the templates.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from swift_core.cli.settings import SMALL_OUTPUT
from swift_core.media.levels import to_levels
from swift_core.media.pictures import load_picture
from swift_core.pipeline import GenerationSettings, Keep, generate
from swift_core.precision import FP32
from swift_core.segments.plan import SegmentSettings
from swift_core.stages.runtime import Runtime
from swift_core.weights.bundled import open_bundled_set

ROOT = Path(__file__).parents[1]
SHOWN = (0, 16, 32, 48)
"""Which frames of a video are laid side by side."""

MOVING_SIDE, MOVING_RATE = 320, 8
"""Width and frames per second of the picture that moves."""

SHEET_WIDTH, SHEET_GAP, GROUND = 384, 6, (28, 28, 30)
QUALITY = 88

Frames = list[Image.Image]


def film(prompt: str) -> tuple[Frames, Frames]:
    """Make the sample's video, and give the motion clip as well."""
    models = open_bundled_set()
    settings = GenerationSettings(
        output=SMALL_OUTPUT,
        prompt=prompt,
        seed=0,
        segments=SegmentSettings(),
        motion_recipe=models.motion_recipe,
        detail_recipe=models.detail_recipe,
        carry=models.carry,
    )
    motion: list[torch.Tensor] = []
    chunks = generate(
        models,
        load_picture(ROOT / "sample" / "coffee.jpg"),
        settings,
        runtime=Runtime(device=torch.device("cpu"), precision=FP32),
        keep=Keep(motion=motion.append),
    )
    video = torch.cat(list(chunks))
    return _images(motion[0]), _images(video)


def _images(clip: torch.Tensor) -> Frames:
    levels = to_levels(clip, top=255).to(torch.uint8).numpy()
    return [Image.fromarray(frame) for frame in levels]


def _lay(rows: list[Frames], *, width: int, gap: int) -> Image.Image:
    """Lay rows of frames out, all of one shape."""
    height = width * rows[0][0].height // rows[0][0].width
    columns = len(rows[0])
    size = (columns * (width + gap) - gap, len(rows) * (height + gap) - gap)
    laid = Image.new("RGB", size, GROUND)
    for y, row in enumerate(rows):
        for x, frame in enumerate(row):
            large = frame.resize((width, height), Image.Resampling.LANCZOS)
            laid.paste(large, (x * (width + gap), y * (height + gap)))
    return laid


def main() -> None:
    """Make them."""
    motion, zoomed = film("zoom in")
    _, panned = film("pan left")
    sheet = [[video[index] for index in SHOWN] for video in (zoomed, panned)]
    _lay(sheet, width=320, gap=0).save(ROOT / "docs" / "swift-tiny.jpg", quality=QUALITY)
    first, *others = (_lay([[frame]], width=MOVING_SIDE, gap=0) for frame in zoomed[::2])
    first.save(
        ROOT / "docs" / "zoom-in.webp",
        save_all=True,
        append_images=others,
        duration=1000 // MOVING_RATE,
        loop=0,
        quality=60,
        method=6,
    )
    four = [zoomed[index] for index in SHOWN]
    beside = [[clip[index] for clip in (motion, zoomed)] for index in (SHOWN[0], SHOWN[-1])]
    for name, rows in (("swift-tiny", [four[:2], four[2:]]), ("your-own-motion", beside)):
        made = _lay(rows, width=SHEET_WIDTH, gap=SHEET_GAP)
        made.save(ROOT / "workflows" / f"{name}.jpg", quality=QUALITY)


if __name__ == "__main__":
    main()
