"""Finds the ComfyUI that the host tests run in, and the Python that runs it."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

VENV_PYTHONS = ("bin/python", "Scripts/python.exe")


class NoHostError(Exception):
    """There is no ComfyUI to test in; the message says what would make one known."""


@dataclass(frozen=True)
class Host:
    """A checkout of ComfyUI.

    Attributes:
        root: the folder with `main.py`.
        python: the interpreter with ComfyUI's requirements.
        version: numbers to compare, such as (0, 3, 64).
    """

    root: Path
    python: Path
    version: tuple[int, ...]

    def __str__(self):
        return f"ComfyUI {'.'.join(map(str, self.version))} at {self.root}"


@cache
def find_host() -> Host:
    """Look at `COMFYUI_PATH`, then at comfy-cli's workspace.

    Raises:
        NoHostError: neither is there.
        ValueError: a place was named that holds no ComfyUI.
    """
    named = os.environ.get("COMFYUI_PATH")
    root = Path(named).expanduser().resolve() if named else _comfy_cli_workspace()
    if root is None:
        raise NoHostError("no ComfyUI here; set COMFYUI_PATH to a checkout to run them")
    if not (root / "main.py").is_file():
        raise ValueError(f"COMFYUI_PATH={named} holds no main.py: name a checkout of ComfyUI")
    python = _python_for(root)
    if python is None and not named:
        raise NoHostError(f"{root} has no environment of its own; set COMFYUI_PYTHON to its Python")
    return Host(root, python or Path(sys.executable), _version_of(root))


def _comfy_cli_workspace():
    comfy = shutil.which("comfy") or shutil.which("comfy", path=Path(sys.executable).parent)
    if comfy is None:
        return None
    said = subprocess.run(
        [comfy, "--skip-prompt", "--json", "which"],
        env=os.environ | {"DO_NOT_TRACK": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stdout
    try:
        workspace = Path(json.loads(said)["data"]["workspace_path"])
    except (ValueError, KeyError, TypeError):
        return None
    # comfy-cli names the place where it would install, whether or not anything is there.
    return workspace if (workspace / "main.py").is_file() else None


def _python_for(root):
    if named := os.environ.get("COMFYUI_PYTHON"):
        if shutil.which(named) is None:
            raise ValueError(f"COMFYUI_PYTHON={named} cannot be run")
        return Path(named)
    places = [root / venv / python for venv in (".venv", "venv") for python in VENV_PYTHONS]
    places.append(root.parent / "python_embeded" / "python.exe")  # the portable Windows build
    return next((place for place in places if place.is_file()), None)


def _version_of(root):
    text = (root / "comfyui_version.py").read_text(encoding="utf-8")
    return tuple(map(int, re.search(r'__version__ = "(\d+)\.(\d+)\.(\d+)', text).groups()))
