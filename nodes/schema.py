"""Schemas that every supported ComfyUI takes: what an older one does not know is left out."""

from __future__ import annotations

import dataclasses
from typing import Any

from comfy_api.latest import io

CATEGORY = "SwiftI2V"

_KNOWN = {field.name for field in dataclasses.fields(io.Schema)}
_NEWER = ("search_aliases", "essentials_category")


def make_schema(**fields: Any) -> io.Schema:
    """Build a schema; of the fields that came after ComfyUI 0.3.64, those that this one has."""
    absent = [name for name in _NEWER if name not in _KNOWN]
    for name in absent:
        fields.pop(name, None)
    return io.Schema(category=CATEGORY, **fields)


def advanced(made: Any) -> Any:
    """Fold an input away on pages that can, and let graphs leave it out."""
    made.optional = True
    made.extra_dict = {**(made.extra_dict or {}), "advanced": True}
    return made
