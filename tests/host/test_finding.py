"""Which ComfyUI is taken; needs none."""

import os
import sys
from pathlib import Path

import pytest

from tests.host.finding import NoHostError, find_host


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch, tmp_path):
    """No variable, no comfy-cli, nothing remembered."""
    for name in ("COMFYUI_PATH", "COMFYUI_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/ours"))
    # Another list of results: that of the running session stays as it is.
    monkeypatch.setattr(sys.modules[__name__], "find_host", find_host.__wrapped__)


def checkout(root, python=None):
    root.mkdir(parents=True)
    (root / "main.py").touch()
    (root / "comfyui_version.py").write_text('# made\n__version__ = "0.33.1"\n')
    if python:
        (root / python).parent.mkdir(parents=True)
        (root / python).touch()
    return root


def comfy_cli(tmp_path, says):
    """Put a program of that name into the path."""
    program = tmp_path / "bin/comfy"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n[ $DO_NOT_TRACK ] && echo '{says}'\n")
    program.chmod(0o755)


def test_without_one_the_message_says_what_to_do():
    with pytest.raises(NoHostError, match="set COMFYUI_PATH to a checkout"):
        find_host()


def test_a_named_folder_must_hold_comfyui(monkeypatch, tmp_path):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"holds no main\.py"):
        find_host()


@pytest.mark.parametrize(
    "python", [".venv/bin/python", "venv/bin/python", "venv/Scripts/python.exe"]
)
def test_a_checkouts_own_environment_is_taken(monkeypatch, tmp_path, python):
    root = checkout(tmp_path / "ComfyUI", python)
    monkeypatch.setenv("COMFYUI_PATH", str(root))
    found = find_host()
    assert (found.root, found.python, found.version) == (root, root / python, (0, 33, 1))
    assert str(found) == f"ComfyUI 0.33.1 at {root}"


def test_the_portable_windows_build(monkeypatch, tmp_path):
    root = checkout(tmp_path / "ComfyUI", "../python_embeded/python.exe")
    monkeypatch.setenv("COMFYUI_PATH", str(root))
    assert find_host().python == tmp_path / "python_embeded/python.exe"


def test_without_an_environment_our_own_python_runs_it(monkeypatch, tmp_path):
    monkeypatch.setenv("COMFYUI_PATH", str(checkout(tmp_path / "ComfyUI")))
    assert find_host().python == Path(sys.executable)


def test_a_named_python_goes_before_all(monkeypatch, tmp_path):
    root = checkout(tmp_path / "ComfyUI", ".venv/bin/python")
    monkeypatch.setenv("COMFYUI_PATH", str(root))
    monkeypatch.setenv("COMFYUI_PYTHON", os.path.realpath("/bin/sh"))
    assert find_host().python == Path(os.path.realpath("/bin/sh"))
    monkeypatch.setenv("COMFYUI_PYTHON", str(tmp_path / "no python"))
    with pytest.raises(ValueError, match="no python cannot be run"):
        find_host()


@pytest.mark.skipif(os.name == "nt", reason="stands in for comfy-cli with a shell script")
class TestComfyCli:
    def test_its_workspace_is_taken(self, tmp_path):
        root = checkout(tmp_path / "ComfyUI", ".venv/bin/python")
        comfy_cli(tmp_path, f'{{"data": {{"workspace_path": "{root}"}}}}')
        assert find_host().root == root

    def test_where_it_would_install_is_no_workspace(self, tmp_path):
        comfy_cli(tmp_path, f'{{"data": {{"workspace_path": "{tmp_path / "ComfyUI"}"}}}}')
        with pytest.raises(NoHostError, match="set COMFYUI_PATH"):
            find_host()

    def test_a_workspace_whose_python_is_unknown_is_left_alone(self, tmp_path):
        root = checkout(tmp_path / "ComfyUI")
        comfy_cli(tmp_path, f'{{"data": {{"workspace_path": "{root}"}}}}')
        with pytest.raises(NoHostError, match="set COMFYUI_PYTHON to its Python"):
            find_host()

    @pytest.mark.parametrize("says", ["", "Welcome!", "[]", '{"data": null}'])
    def test_what_it_says_instead_of_a_place_is_nothing(self, tmp_path, says):
        comfy_cli(tmp_path, says)
        with pytest.raises(NoHostError):
            find_host()
