"""A run where PyAV is not installed: the core imports it, but only video files need it.

A stand-in lets the core be imported; whatever would open a file then fails, and the rows say so.
"""

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_STAND_IN = "stand-in"


class _StandIn(ModuleType):
    """A module that has every name: each is a class that nothing is made of."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (Exception,), {})
        setattr(self, name, made)
        return made


class _Finder(MetaPathFinder, Loader):
    """Find ``av`` and all below it."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:  # noqa: ARG002
        """Find a stand-in."""
        if fullname.partition(".")[0] != "av":
            return None
        return ModuleSpec(fullname, self, origin=_STAND_IN, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Make it."""
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Run nothing."""


def has_av() -> bool:
    """Tell whether PyAV itself is there."""
    found = find_spec("av")
    return found is not None and found.origin != _STAND_IN


def stand_in_for_av() -> None:
    """Let the core be imported where PyAV is not installed."""
    if find_spec("av") is None:
        sys.meta_path.append(_Finder())
