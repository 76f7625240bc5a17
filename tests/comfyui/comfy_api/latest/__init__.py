"""What the pack imports from ComfyUI's interface."""

from abc import ABC, abstractmethod

from . import schemas as io


class ComfyExtension(ABC):
    @abstractmethod
    async def get_node_list(self): ...


class InputImpl:
    class VideoFromFile:
        """Only nodes that run ask it for something."""


class ui:  # noqa: N801 - its name there
    """Only nodes that run ask it for something."""


__all__ = ["ComfyExtension", "InputImpl", "io", "ui"]
