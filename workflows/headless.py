"""Make a video with a running ComfyUI, from a program and without its page.

    python workflows/headless.py photo.jpg "slow zoom in" video.mp4 --seed 7
    python workflows/headless.py photo.jpg "" video.mp4 --graph your-own-motion --clip clip.mp4

It uploads the picture, puts picture, prompt and seed into a graph of `workflows/api/`, queues it,
shows the progress that ComfyUI tells over its websocket, and fetches the video. It needs aiohttp,
which ComfyUI's own Python has. Nothing of it is special to this pack but the titles of the nodes.
"""

import argparse
import asyncio
import json
import sys
import uuid
from pathlib import Path
from typing import Any

import aiohttp

Graph = dict[str, dict[str, Any]]
Session = aiohttp.ClientSession

API = Path(__file__).with_name("api")


class FailedError(Exception):
    """The video was not made; the message says why."""


def node_called(graph: Graph, title: str) -> str:
    """Give the id of the node with a title, as the graph shows it on the page.

    Raises:
        FailedError: there is none.
    """
    for name, node in graph.items():
        if node["_meta"]["title"] == title:
            return name
    raise FailedError(f'this graph has no node "{title}"')


def inputs_of(graph: Graph, title: str) -> dict[str, Any]:
    """Give the inputs of the node with a title, to be changed."""
    return graph[node_called(graph, title)]["inputs"]


def put_everywhere(graph: Graph, name: str, value: int) -> None:
    """Put a value wherever a node has an input of that name.

    Raises:
        FailedError: none has.
    """
    found = [node["inputs"] for node in graph.values() if name in node["inputs"]]
    if not found:
        raise FailedError(f"this graph has no {name}")
    for inputs in found:
        inputs[name] = value


async def fill_in(session: Session, graph: Graph, options: argparse.Namespace) -> None:
    """Put in what is different in every run; what is not given stays as the graph has it."""
    inputs_of(graph, "What happens")["text"] = options.prompt
    put_everywhere(graph, "seed", options.seed)
    if options.frames is not None:
        put_everywhere(graph, "pixel_frames", options.frames)
    if options.clip is not None:
        clip = inputs_of(graph, "Your clip")
        clip["file"] = await upload(session, options.clip)
    inputs_of(graph, "Your picture")["image"] = await upload(session, options.picture)


async def upload(session: Session, path: Path) -> str:
    """Put a file into ComfyUI's input folder; give the name that loaders know it by."""
    form = aiohttp.FormData({"overwrite": "true"})
    form.add_field("image", path.read_bytes(), filename=path.name)
    async with session.post("/upload/image", data=form) as answer:
        return (await answer.json())["name"]


async def queue(session: Session, graph: Graph, client: str) -> str:
    """Queue a graph; give the name of this run.

    Raises:
        FailedError: ComfyUI refuses it, or a part of it.
    """
    body = {"prompt": graph, "client_id": client}
    async with session.post("/prompt", json=body, raise_for_status=False) as answer:
        said = await answer.json()
    # ComfyUI runs what it can of a graph: also where something is wrong, there may be a run.
    complaints = [
        f"{node['class_type']}: {error['message']} ({error['details']})"
        for node in (said.get("node_errors") or {}).values()
        for error in node["errors"]
    ]
    if complaints or "prompt_id" not in said:
        raise FailedError("; ".join(complaints) or said["error"]["message"])
    return said["prompt_id"]


async def follow(socket: aiohttp.ClientWebSocketResponse, graph: Graph, run: str) -> None:
    """Show what a run does, until it ends.

    Raises:
        FailedError: it failed or was interrupted.
    """
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.TEXT:
            continue  # previews come as binary messages
        said = json.loads(message.data)
        kind, data = said["type"], said["data"]
        if data.get("prompt_id") != run:
            continue
        if kind == "execution_success":
            print()
            return
        show(kind, data, graph)
    raise FailedError("ComfyUI has gone away")


def show(kind: str, data: dict[str, Any], graph: Graph) -> None:
    """Show one message: a line for each node, on which its progress counts up.

    Raises:
        FailedError: it is the last, and no good one.
    """
    if kind == "executing" and data["node"]:
        print(f"\n{graph[data['node']]['_meta']['title']}", end="", flush=True)
    elif kind == "progress":
        title = graph[data["node"]]["_meta"]["title"]
        print(f"\r{title}: {data['value']:g} of {data['max']:g}", end="", flush=True)
    elif kind == "execution_error":
        raise FailedError(f"{data['node_type']}: {data['exception_message'].strip()}")
    elif kind == "execution_interrupted":
        raise FailedError(f"interrupted in {data['node_type']}")


async def fetch(session: Session, graph: Graph, run: str) -> bytes:
    """Get the video that a run has saved."""
    node = node_called(graph, "Your video")
    while True:
        async with session.get(f"/history/{run}") as answer:
            history = await answer.json()
        if run in history:
            break
        await asyncio.sleep(0.1)  # it is written a moment after the run has ended
    saved = history[run]["outputs"][node]["images"][0]
    place = {key: saved[key] for key in ("filename", "subfolder", "type")}
    async with session.get("/view", params=place) as answer:
        return await answer.read()


async def make_video(options: argparse.Namespace) -> None:
    """Do all of it."""
    graph: Graph = json.loads((API / f"{options.graph}.json").read_text(encoding="utf-8"))
    client = uuid.uuid4().hex
    async with Session(options.server, raise_for_status=True) as session:
        await fill_in(session, graph, options)
        # Listen first: a run whose parts are all known already ends at once.
        address = f"/ws?clientId={client}"
        async with session.ws_connect(address, max_msg_size=0) as socket:
            run = await queue(session, graph, client)
            await follow(socket, graph, run)
        options.video.write_bytes(await fetch(session, graph, run))


def main() -> int:
    """Read the command line; 0, or 1 with a sentence."""
    read = argparse.ArgumentParser(description="Make a video with a running ComfyUI.")
    read.add_argument("picture", type=Path)
    read.add_argument("prompt")
    read.add_argument("video", type=Path)
    read.add_argument("--seed", type=int, default=7)
    read.add_argument("--frames", type=int, help="4n+1; else as many as the graph says")
    read.add_argument("--clip", type=Path, help="a video, for a graph that takes its motion")
    read.add_argument("--graph", default="swift-tiny", help="a name in workflows/api")
    read.add_argument("--server", default="http://127.0.0.1:8188")
    options = read.parse_args()
    try:
        asyncio.run(make_video(options))
    except (FailedError, OSError, aiohttp.ClientError) as error:
        print(f"\nheadless: {error}", file=sys.stderr)
        return 1
    print(options.video)
    return 0


if __name__ == "__main__":
    sys.exit(main())
