"""What the registry would get: comfy-cli checks and packs it, and ComfyUI loads what was packed."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.host.server import ROOT, host_environment

pytestmark = pytest.mark.host

NEEDED = {
    "__init__.py",
    "nodes",
    "swift_core",
    "web",
    "locales",
    "workflows",
    "pyproject.toml",
    "requirements.txt",
    "README.md",
    "LICENSE",
    "docs",
    # To these the README sends people.
    "CONTRIBUTING.md",
    "Makefile",
    "requirements",
    "sample",
}


@pytest.fixture
def checkout(tmp_path):
    """A checkout of the last commit: comfy-cli packs what git tracks."""
    target = tmp_path / "checkout"
    command = ["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", target]
    subprocess.run(command, check=True, timeout=120)
    return target


def comfy_node(host, checkout, word):
    """Run `comfy node …` there; give all that it says."""
    folders = [os.environ.get("PATH", "")]
    folders += [str(Path(python).parent) for python in (sys.executable, host.python)]
    found = shutil.which("comfy", path=os.pathsep.join(folders))
    if found is None:
        pytest.skip("no comfy-cli here: pip install comfy-cli")
    ended = subprocess.run(
        [found, "--skip-prompt", "--no-json", "node", word],
        cwd=checkout,
        env=host_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def test_it_validates_without_a_warning(host, checkout):
    said = comfy_node(host, checkout, "validate")
    assert "All validation checks passed" in said
    assert "arning" not in said


def test_what_is_packed_is_what_is_needed_and_loads(host, checkout, inside, tmp_path):
    comfy_node(host, checkout, "pack")
    unpacked = tmp_path / "swift-i2v from the registry"
    with zipfile.ZipFile(checkout / "node.zip") as package:
        package.extractall(unpacked)
    assert {path.name for path in unpacked.iterdir()} == NEEDED
    assert (unpacked / "swift_core" / "swift_tiny" / "set.json").is_file()
    code = "assert asyncio.run(nodes.load_custom_node(copy)); result = 'LoadSwiftModels' in NODES"
    assert inside(code, copy=str(unpacked))
