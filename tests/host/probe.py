"""Nodes for the tests alone. ComfyUI loads this file; it is copied into its custom_nodes."""

import time
import uuid
from pathlib import Path

import comfy.utils
import folder_paths
import torch
from comfy_api.v0_0_2 import ComfyExtension, io
from PIL import Image
from safetensors.torch import load_file, save_file


class HostTestKeep(io.ComfyNode):
    """Writes any value down, leaf by leaf, for the test to read."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HostTestKeep",
            category="host tests",
            inputs=[io.AnyType.Input("value"), io.String.Input("name", default="")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, value, name):
        tensors, values = {}, {}
        for path, leaf in leaves_of(value):
            if isinstance(leaf, torch.Tensor):
                tensors[path] = leaf.detach().cpu().contiguous().clone()
            else:
                values[path] = leaf
        file = f"kept-{uuid.uuid4().hex}.safetensors"
        save_file(tensors, Path(folder_paths.get_output_directory()) / file)
        item = {"name": name, "filename": file, "subfolder": "", "type": "output"}
        return io.NodeOutput(ui={"kept": [item | {"values": values}]})


class HostTestGive(io.ComfyNode):
    """Reads tensors that a test has put into the input folder; one named so is a CONDITIONING."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HostTestGive",
            category="host tests",
            inputs=[io.String.Input("file", default="")],
            outputs=[io.AnyType.Output(display_name="value")],
        )

    @classmethod
    def fingerprint_inputs(cls, file):
        return Path(folder_paths.get_annotated_filepath(file)).stat().st_mtime_ns

    @classmethod
    def execute(cls, file):
        leaves = load_file(folder_paths.get_annotated_filepath(file))
        if set(leaves) == {"conditioning"}:
            return io.NodeOutput([[leaves["conditioning"], {}]])
        return io.NodeOutput(leaves[""] if set(leaves) == {""} else leaves)


class HostTestSay(io.ComfyNode):
    """Gives a word to any socket."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HostTestSay",
            category="host tests",
            inputs=[io.String.Input("word", default="")],
            outputs=[io.AnyType.Output(display_name="word")],
        )

    @classmethod
    def execute(cls, word):
        return io.NodeOutput(word)


class HostTestSteps(io.ComfyNode):
    """Works for a while, shows it, and fails where it is told to."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HostTestSteps",
            category="host tests",
            inputs=[
                io.Int.Input("steps", default=4, min=1, max=10_000),
                io.Float.Input("seconds_per_step", default=0.0, min=0.0, max=10.0),
                io.Int.Input("fail_at", default=-1, min=-1, max=10_000),
            ],
            outputs=[io.Int.Output(display_name="steps")],
            is_output_node=True,
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, steps, seconds_per_step, fail_at):
        progress = comfy.utils.ProgressBar(steps)
        for step in range(steps):
            if step == fail_at:
                raise ValueError(f"told to fail at step {step}")
            time.sleep(seconds_per_step)
            shown = Image.new("RGB", (32, 16), (255 * step // steps, 0, 0))
            progress.update_absolute(step + 1, steps, ("JPEG", shown, 512))
        return io.NodeOutput(steps)


def leaves_of(value, path=""):
    """Give (path, tensor or plain value) for each leaf; a VIDEO counts as its components."""
    if hasattr(value, "get_components"):
        parts = value.get_components()
        audio = parts.audio["waveform"] if parts.audio else None
        value = {"images": parts.images, "frame_rate": float(parts.frame_rate), "audio": audio}
    if isinstance(value, (list, tuple)):
        value = {str(index): item for index, item in enumerate(value)}
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves_of(item, f"{path}.{key}" if path else str(key))
    elif value is None or isinstance(value, (torch.Tensor, bool, int, float, str)):
        yield path, value
    else:
        yield path, f"a {type(value).__name__}"


class ProbeExtension(ComfyExtension):
    async def get_node_list(self):
        return [HostTestKeep, HostTestGive, HostTestSay, HostTestSteps]


async def comfy_entrypoint():
    return ProbeExtension()
