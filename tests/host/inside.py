"""Runs a piece of Python inside ComfyUI, without a server: for what HTTP does not show.

The memory manager's books, a MODEL's patches, a node's class: a test hands over a few lines that
assert there, and gets back what they leave in `result`. It takes the seconds that ComfyUI takes to
be imported, so a test should ask for all it wants at once.
"""

import json
import subprocess
import textwrap
from pathlib import Path
from typing import Any

from tests.host.finding import Host
from tests.host.server import PACK, host_environment, prepare_base

PRELUDE = """
import sys
sys.path.insert(0, "")
sys.argv = ["main.py", "--cpu", "--disable-api-nodes", "--base-directory", given["base"]]

import comfy.options
comfy.options.enable_args_parsing()

import asyncio, json, logging
import comfy.model_management, comfy.utils, execution, folder_paths, nodes, torch
logging.basicConfig(level=logging.INFO)

assert asyncio.run(nodes.load_custom_node(given["pack"])), "the pack does not load"
NODES = nodes.NODE_CLASS_MAPPINGS
pack = sys.modules[given["pack"].replace(".", "_x_")]
result = None
"""
MARK = "the result of this test: "


def run_inside(host: Host, base: Path, code: str, *, timeout: float = 300, **values: Any) -> Any:
    """Run `code` in ComfyUI's Python and give what it leaves in `result`.

    `code` finds ComfyUI's modules imported, the pack loaded as `pack`, all nodes by name in
    `NODES`, and each of `values` (what JSON can say) as a name of its own.

    Raises:
        AssertionError: it raised; with what it printed.
        subprocess.TimeoutExpired: it took longer than `timeout` seconds.
    """
    prepare_base(base)
    given = {"base": str(base), "pack": str(base / "custom_nodes" / PACK)}
    script = "\n".join(
        (
            f"import json; given = json.loads({json.dumps(given)!r})",
            PRELUDE,
            f"globals().update(json.loads({json.dumps(values)!r}))",
            textwrap.dedent(code),
            f"print({MARK!r} + json.dumps(result))",
        )
    )
    path = base / "inside.py"
    path.write_text(script, encoding="utf-8")
    ended = subprocess.run(
        [host.python, path],
        cwd=host.root,
        env=host_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=timeout,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-6000:]
    return json.loads(ended.stdout.rsplit(MARK, 1)[1])
