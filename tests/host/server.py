"""Starts a real ComfyUI with the pack in it, in a folder of its own."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import tomllib
from safetensors.torch import save

from tests.host.client import Client, Http
from tests.host.finding import Host
from tests.host.graph import Graph
from tests.host.outcome import GraphError, Outcome

ROOT = Path(__file__).parents[2]
PACK = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
"""The folder's name in custom_nodes: the one the registry's installers give it."""
START_SECONDS = 180


class Server:
    """A ComfyUI on a free port; use it in a `with` statement.

    Attributes:
        host: which ComfyUI.
        base: its folders `models`, `input`, `output`, `custom_nodes` and so on.
        url: without a slash at its end.
        http: plain requests.
    """

    def __init__(self, host: Host, base: Path, *options: str):
        self.host = host
        self.base = base
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = Http(self.url)
        self._options = options

    def __enter__(self) -> "Server":
        prepare_base(self.base)
        command = [self.host.python, "main.py", "--cpu", "--listen", "127.0.0.1"]
        command += ["--port", str(self.port), "--base-directory", self.base]
        command += ["--database-url", "sqlite:///:memory:", "--preview-method", "auto"]
        command += ["--disable-auto-launch", "--disable-api-nodes", *self._options]
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.host.root,
                env=host_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_until_up()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *raised):
        self._stop()

    @property
    def log(self) -> str:
        """All that the server has printed, without its colours."""
        printed = self._log_path.read_text(encoding="utf-8", errors="replace")
        return re.sub(r"\x1b\[[0-9;]*m", "", printed)

    def client(self) -> Client:
        """Give a listener for more than `run`: to act while a graph runs."""
        return Client(self.http)

    def run(
        self, graph: Graph | dict[str, dict], *, check: bool = True, timeout: float = 120
    ) -> Outcome:
        """Queue a graph, in API form, and wait for its end.

        Raises:
            GraphError: it was refused, failed or was interrupted, and `check` is true; otherwise
                the outcome's `error` says so.
            TimeoutError: it runs for longer than `timeout` seconds.
        """
        prompt = graph.prompt if isinstance(graph, Graph) else graph
        with self.client() as client:
            try:
                outcome = client.wait(client.queue(prompt), timeout)
            except GraphError as refused:
                outcome = Outcome("", {}, {}, [], 0.0, refused.failure)
            except Exception as error:
                error.add_note(self._tail())
                raise
        if check and outcome.error:
            failed = GraphError(outcome.error)
            failed.add_note("".join(outcome.error.details.get("traceback", [])))
            raise failed
        return outcome

    def upload_image(self, path: Path) -> str:
        """Put a picture or a video into the input folder; give the name LoadImage knows it by."""
        return self.http.upload(path.name, path.read_bytes())

    def give(self, graph: Graph, value: Any, name: str = "given") -> list:
        """Bring a tensor, or a dict of tensors such as a LATENT, into a graph as an output."""
        leaves = value if isinstance(value, dict) else {"": value}
        file = self.http.upload(f"{name}.safetensors", save(leaves))
        return graph.add("HostTestGive", file=file)[0]

    def view(self, file: dict[str, str]) -> bytes:
        """Give the content of one of `Outcome.files`."""
        place = {key: file[key] for key in ("filename", "subfolder", "type")}
        return self.http.get("/view", **place)

    def object_info(self) -> dict[str, dict[str, Any]]:
        """Give every node the server knows, as the page and comfy-cli are told of it."""
        return self.http.get_json("/object_info")

    def pack_nodes(self) -> dict[str, dict[str, Any]]:
        """Give those of the nodes that the pack brings."""
        where = f"custom_nodes.{PACK}"
        nodes = self.object_info()
        return {name: node for name, node in nodes.items() if node["python_module"] == where}

    @property
    def _log_path(self):
        return self.base / "server.log"

    def _tail(self):
        return f"The server's log ends with:\n{self.log[-4000:]}"

    def _wait_until_up(self):
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if (status := self._process.poll()) is not None:
                raise RuntimeError(f"{self.host} ended with status {status}. {self._tail()}")
            try:
                self.http.get("/system_stats")
            except OSError:  # nobody there yet
                time.sleep(0.1)
            else:
                return
        raise TimeoutError(f"{self.host} is not up after {START_SECONDS} s. {self._tail()}")

    def _stop(self):
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def prepare_base(base: Path) -> None:
    """Make ComfyUI's folders, with the pack and the tests' own nodes in them."""
    for folder in ("custom_nodes", "models", "input", "output", "temp", "user/default"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).with_name("probe.py"), base / "custom_nodes" / "host_test_probe.py")
    pack = base / "custom_nodes" / PACK
    try:
        pack.symlink_to(ROOT, target_is_directory=True)
    except OSError:  # Windows gives links to few
        copy_pack(pack)
    # A newcomer's page opens with a dialog over it.
    settings = {"Comfy.TutorialCompleted": True}
    (base / "user/default/comfy.settings.json").write_text(json.dumps(settings), encoding="utf-8")


def copy_pack(target: Path) -> None:
    """Copy what git tracks: what a user of the pack receives."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file():  # not one that is about to be deleted
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def host_environment() -> dict[str, str]:
    """Give ComfyUI's environment: without this Python's paths, offline, one thread."""
    ours = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    kept = {key: value for key, value in os.environ.items() if key not in ours}
    return {
        "OMP_NUM_THREADS": "1",
        **kept,
        "PYTHONIOENCODING": "utf-8",
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


def _free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
