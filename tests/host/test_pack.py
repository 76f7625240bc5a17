"""The pack as ComfyUI loads it."""

import re

import pytest

from tests.host.graph import Graph
from tests.host.server import PACK, copy_pack

pytestmark = pytest.mark.host


def test_it_is_loaded(server):
    """ComfyUI lists every pack with its import time, and goes on without those that failed."""
    lines = [line for line in server.log.splitlines() if re.search(r"\d seconds.*: ", line)]
    assert any(line.endswith(PACK) for line in lines), server.log
    for trouble in ("IMPORT FAILED", "Cannot import", "Error while calling comfy_entrypoint"):
        assert trouble not in server.log, server.log


def test_the_log_has_no_warning_about_it(server):
    started = server.log.partition("To see the GUI go to")[0]  # what tests provoke comes after
    assert not [
        line
        for line in started.splitlines()
        if PACK in line and re.search("warn|error|deprecat", line, re.IGNORECASE)
    ]


def test_what_git_tracks_loads_under_any_folder_name(inside, tmp_path):
    """What people unpack themselves is named in many ways; a file forgotten in git fails here."""
    copy = tmp_path / "ComfyUI SwiftI2V-main.1 (2)"
    copy_pack(copy)
    inside("assert asyncio.run(nodes.load_custom_node(copy))", copy=str(copy))


def test_core_is_unharmed(server):
    """A pack can take over names: the nodes it is used with are still core's own."""
    nodes = server.object_info()
    for name in ("LoadImage", "CreateVideo", "SaveVideo", "VAEDecodeTiled", "KSamplerAdvanced"):
        assert nodes[name]["python_module"].startswith(("nodes", "comfy_extras.")), name


def test_a_graph_runs_beside_it(server):
    graph = Graph()
    picture = graph.add("EmptyImage", width=48, height=32, batch_size=3, color=0xFF8000)
    graph.keep(picture[0], "picture")
    assert server.run(graph).kept["picture"].shape == (3, 32, 48, 3)
