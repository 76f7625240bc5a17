"""Laws of the repository itself."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = sorted((ROOT / "swift_core").rglob("*.py"))


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_pack_imports_itself_relatively(path):
    """ComfyUI loads the pack under a name of its own making: an absolute import would fail."""
    assert not re.search(r"^\s*(from|import) swift_core\b", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_readable(path):
    assert len(path.read_text().splitlines()) <= 300


def test_importing_the_core_needs_no_test_dependency_and_configures_nothing():
    """At a user's site there is no jaxtyping; shape annotations are inert there."""
    script = f"""
import logging, sys
sys.path.insert(0, {str(ROOT)!r})
for absent in ("jaxtyping", "beartype", "diffusers", "transformers", "comfy", "folder_paths"):
    sys.modules[absent] = None
import swift_core.pipeline, swift_core.cli.main
from swift_core.shapes import Float, Tensor
assert Float[Tensor, "b c"] is Tensor
assert not logging.getLogger().handlers
import torch
assert not torch.cuda.is_initialized()
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_root_package_is_importable_as_comfyui_imports_it():
    script = f"""
import importlib.util, sys
name = "custom_nodes.some where"
spec = importlib.util.spec_from_file_location(
    name, {str(ROOT / "__init__.py")!r}, submodule_search_locations=[{str(ROOT)!r}])
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
spec.loader.exec_module(module)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
