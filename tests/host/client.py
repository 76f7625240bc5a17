"""A program that talks to a running ComfyUI: HTTP, and the websocket for what happens meanwhile."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from safetensors.torch import load
from websockets.sync.client import connect

from tests.host.outcome import Failure, GraphError, Message, Outcome

# Whatever proxy the environment names: the server is on this machine.
OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
PREVIEW, PREVIEW_WITH_METADATA = 1, 4
ENDS = {
    "execution_success": None,
    "execution_error": "failed",
    "execution_interrupted": "interrupted",
}


class Http:
    """Plain requests; `urllib.error.HTTPError` for every status that is not 2xx."""

    def __init__(self, url: str):
        self.url = url

    def get(self, path: str, **query) -> bytes:
        asked = f"{self.url}{path}?{urllib.parse.urlencode(query)}"
        with OPEN(asked, timeout=60) as answer:
            return answer.read()

    def get_json(self, path: str, **query) -> Any:
        return json.loads(self.get(path, **query))

    def post_json(self, path: str, body: Any) -> Any:
        return self._post(path, json.dumps(body).encode(), "application/json")

    def upload(self, name: str, content: bytes) -> str:
        """Put a file into the input folder, over one of the same name; give its name there."""
        mark = uuid.uuid4().hex
        fields = (
            f'--{mark}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'
            f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        body = fields.encode() + content + f"\r\n--{mark}--\r\n".encode()
        return self._post("/upload/image", body, f"multipart/form-data; boundary={mark}")["name"]

    def _post(self, path, body, content_type):
        request = urllib.request.Request(self.url + path, body, {"Content-Type": content_type})
        with OPEN(request, timeout=60) as answer:
            said = answer.read()
        return json.loads(said) if said else None


class Client:
    """One listener with a name of its own; use it in a `with` statement.

    `queue`, then `until` something of interest happens, then `interrupt` or not, then `wait`.
    """

    def __init__(self, http: Http):
        self.http = http
        self._name = uuid.uuid4().hex
        self._messages: list[Message] = []
        self._started = time.monotonic()
        self._closing = ExitStack()

    def __enter__(self) -> "Client":
        address = f"ws{self.http.url.removeprefix('http')}/ws?clientId={self._name}"
        socket = connect(address, proxy=None, max_size=None, max_queue=None, ping_interval=None)
        self._socket = self._closing.enter_context(socket)
        # Only a client that says so is told which node a preview belongs to.
        flags = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
        self._socket.send(json.dumps(flags))
        self._next(timeout=30, wanted=lambda message: message.type == "feature_flags")
        return self

    def __exit__(self, *raised):
        return self._closing.__exit__(*raised)

    def queue(self, prompt: dict[str, dict], workflow: dict | None = None) -> str:
        """Queue a graph in API form and give the server's name for this run.

        Args:
            workflow: the form that the page has of it, which goes into the files that it saves.

        Raises:
            GraphError: the server refused it.
        """
        self._messages, self._started = [], time.monotonic()
        try:
            body: dict[str, Any] = {"prompt": prompt, "client_id": self._name}
            if workflow is not None:
                body["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
            return self.http.post_json("/prompt", body)["prompt_id"]
        except urllib.error.HTTPError as error:
            raise GraphError(_refusal(json.loads(error.read()))) from None

    def until(self, wanted: Callable[[Message], bool], timeout: float = 120) -> Message:
        """Listen until a message is of the wanted kind.

        Raises:
            TimeoutError: none came.
            websockets.ConnectionClosed: the server is gone.
        """
        return self._next(timeout=timeout, wanted=wanted)

    def interrupt(self, prompt_id: str) -> None:
        self.http.post_json("/interrupt", {"prompt_id": prompt_id})

    def wait(self, prompt_id: str, timeout: float = 120) -> Outcome:
        """Listen until the graph has ended.

        Raises:
            TimeoutError: it runs for longer; it is interrupted then.
            websockets.ConnectionClosed: the server is gone.
        """

        def is_end(message):
            return message.type in ENDS and message.data["prompt_id"] == prompt_id

        try:
            end = self._next(timeout=timeout, wanted=is_end)
        except TimeoutError:
            self.interrupt(prompt_id)
            raise
        kind = ENDS[end.type]
        outputs = self._history(prompt_id, timeout=30)["outputs"]
        return Outcome(
            prompt_id=prompt_id,
            outputs=outputs,
            kept=self._kept(outputs),
            messages=list(self._messages),
            seconds=end.seconds,
            error=kind and Failure(kind, _message(end.data), end.data["node_id"], end.data),
        )

    def _next(self, *, timeout, wanted):
        until = time.monotonic() + timeout
        while True:
            try:
                message = self._read(max(0.0, until - time.monotonic()))
            except TimeoutError:
                last = self._messages[-1:] or "nothing"
                raise TimeoutError(f"not within {timeout} s; the last message: {last}") from None
            self._messages.append(message)
            if wanted(message):
                return message

    def _read(self, timeout):
        raw = self._socket.recv(timeout)
        seconds = time.monotonic() - self._started
        if isinstance(raw, str):
            said = json.loads(raw)
            return Message(said["type"], said["data"], seconds)
        kind, rest = int.from_bytes(raw[:4]), raw[4:]
        if kind == PREVIEW_WITH_METADATA:
            length = int.from_bytes(rest[:4])
            return Message("preview", json.loads(rest[4 : 4 + length]), seconds, rest[4 + length :])
        if kind == PREVIEW:
            return Message("preview", {}, seconds, rest[4:])
        return Message("binary", {"kind": kind}, seconds, rest)

    def _history(self, prompt_id, *, timeout):
        """The server writes its history a moment after it says that it has finished."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            if found := self.http.get_json(f"/history/{prompt_id}").get(prompt_id):
                return found
            time.sleep(0.02)
        raise TimeoutError(f"run {prompt_id} ended, but is not in the history after {timeout} s")

    def _kept(self, outputs):
        kept = {}
        for shown in outputs.values():
            for item in shown.get("kept", ()):
                place = {key: item[key] for key in ("filename", "subfolder", "type")}
                leaves = item["values"] | load(self.http.get("/view", **place))
                kept[item["name"]] = leaves[""] if set(leaves) == {""} else leaves
        return kept


def _message(data):
    """Interruptions have no message of their own."""
    return data.get("exception_message", f"interrupted in {data.get('node_type')}").strip()


def _refusal(said):
    """Say a refusal in one line: each node's complaints, or else the graph's."""
    nodes = said.get("node_errors") or {}
    lines = [
        f"{node['class_type']}: {error['message']} ({error['details']})"
        for node in nodes.values()
        for error in node["errors"]
    ]
    error = said["error"]
    whole = f"{error['message']} ({error['details']})"
    return Failure("refused", "; ".join(lines) or whole, next(iter(nodes), ""), said)
