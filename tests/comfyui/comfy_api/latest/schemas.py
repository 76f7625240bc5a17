"""Schemas, as ComfyUI 0.3.64 has them: an argument that it does not know is a TypeError here too.

With STAND_IN=newest in the environment, with the fields that came after it.
"""

# ruff: noqa: A002 - arguments have the names that they have there

import os
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import Any


def prune(given):
    return {key: value for key, value in given.items() if value is not None}


class Input:
    """An input; `own` are the arguments that its kind adds, with the page's word for each."""

    io_type = ""
    own = {}  # noqa: RUF012 - said anew by each kind, and never changed

    def __init__(
        self,
        id,
        display_name=None,
        optional=False,
        tooltip=None,
        lazy=None,
        extra_dict=None,
        **given,
    ):
        self.id = id
        self.display_name = display_name
        self.optional = optional
        self.tooltip = tooltip
        self.lazy = lazy
        self.extra_dict = extra_dict if extra_dict is not None else {}
        if unknown := given.keys() - self.own.keys():
            raise TypeError(f"{self.io_type} input {id}: unexpected keyword arguments {unknown}")
        if self.own and extra_dict is not None:
            raise TypeError(f"{self.io_type} input {id}: unexpected keyword argument extra_dict")
        self.given = given

    def as_dict(self):
        shown = {"display_name": self.display_name, "tooltip": self.tooltip, "lazy": self.lazy}
        own = {word: self.given.get(argument) for argument, word in self.own.items()}
        return prune(shown) | prune(self.extra_dict) | prune(own)

    def get_io_type(self):
        return self.io_type


class Output:
    io_type = ""

    def __init__(self, id=None, display_name=None, tooltip=None, is_output_list=False):
        self.id = id
        self.display_name = display_name
        self.tooltip = tooltip
        self.is_output_list = is_output_list


def Custom(io_type):  # noqa: N802 - its name there
    return type(
        io_type,
        (),
        {
            "io_type": io_type,
            "Input": type("Input", (Input,), {"io_type": io_type}),
            "Output": type("Output", (Output,), {"io_type": io_type}),
        },
    )


Image, Latent, Model, Vae, Clip = map(Custom, ("IMAGE", "LATENT", "MODEL", "VAE", "CLIP"))
Conditioning, Video = Custom("CONDITIONING"), Custom("VIDEO")


def widget(io_type, **own):
    kind = Custom(io_type)
    common = {"default": "default", "socketless": "socketless", "force_input": "forceInput"}
    kind.Input.own = common | own
    return kind


RANGE = {"min": "min", "max": "max", "step": "step", "display_mode": "display"}
CONTROL = {"control_after_generate": "control_after_generate"}
Int = widget("INT", **RANGE, **CONTROL)
Float = widget("FLOAT", **RANGE, round="round")
Boolean = widget("BOOLEAN", label_on="label_on", label_off="label_off")
String = widget(
    "STRING", multiline="multiline", placeholder="placeholder", dynamic_prompts="dynamicPrompts"
)
Combo = widget("COMBO", options="options", upload="upload", remote="remote", **CONTROL)


class MultiType:
    class Input(Input):
        def __init__(self, id, types, **given):
            super().__init__(id, **given)
            self.types = types

        def get_io_type(self):
            return ",".join(dict.fromkeys(each.io_type for each in self.types))


class Hidden(str, Enum):
    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"
    dynprompt = "DYNPROMPT"


@dataclass
class OldestSchema:
    node_id: str
    display_name: str = None
    category: str = "sd"
    inputs: list = None
    outputs: list = None
    hidden: list = None
    description: str = ""
    is_input_list: bool = False
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    is_api_node: bool = False
    not_idempotent: bool = False
    enable_expand: bool = False

    def validate(self):
        """Refuse an id that is there twice; among inputs and outputs together, too."""
        ids = Counter(each.id for each in (*(self.inputs or ()), *(self.outputs or ())) if each.id)
        if doubled := [name for name, count in ids.items() if count > 1]:
            raise ValueError(f"Ids must be unique between inputs and outputs, but {doubled} is not")

    def info(self):
        """Say it in the form of /object_info."""
        inputs = {"required": {}}
        for each in self.inputs or ():
            group = inputs.setdefault("optional" if each.optional else "required", {})
            group[each.id] = (each.get_io_type(), each.as_dict())
        outputs = self.outputs or ()
        return {
            "input": inputs,
            "input_order": {group: list(named) for group, named in inputs.items()},
            "output": [each.io_type for each in outputs],
            "output_name": [each.display_name or each.io_type for each in outputs],
            "output_tooltips": [each.tooltip for each in outputs],
            "name": self.node_id,
            "display_name": self.display_name,
            "description": self.description,
            "category": self.category,
            "output_node": self.is_output_node,
        }


@dataclass
class NewestSchema(OldestSchema):
    search_aliases: list = None
    is_dev_only: bool = False
    price_badge: Any = None
    accept_all_inputs: bool = False
    essentials_category: str = None
    has_intermediate_output: bool = False


Schema = NewestSchema if os.environ.get("STAND_IN") == "newest" else OldestSchema


class NodeOutput:
    """Only named in annotations: nothing is executed here."""


class ComfyNode(ABC):
    @classmethod
    @abstractmethod
    def define_schema(cls): ...

    @classmethod
    @abstractmethod
    def execute(cls, **kwargs): ...
