"""`python -m tools.workflows`: writes every graph in both forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .canvas import ROOT
from .forms import api_form, ui_form
from .full import core_model, full_2k, low_vram
from .tiny import own_motion, swift_tiny

FOLDER = ROOT / "workflows"


def write_all(folder: Path) -> None:
    """Write `NAME.json` for the page, which lists them as templates, and `api/NAME.json`."""
    (folder / "api").mkdir(parents=True, exist_ok=True)
    for canvas in (swift_tiny(), full_2k(), low_vram(), own_motion(), core_model()):
        _write(folder / f"{canvas.name}.json", ui_form(canvas))
        _write(folder / "api" / f"{canvas.name}.json", api_form(canvas))


def _write(path: Path, graph: dict[str, Any]) -> None:
    text = json.dumps(graph, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_all(FOLDER)
