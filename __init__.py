"""ComfyUI's entry to the pack."""

from importlib.util import find_spec

# Without ComfyUI (tests, the command line) there is nobody to give nodes to.
if find_spec("comfy_api"):
    from .nodes import comfy_entrypoint

    __all__ = ["comfy_entrypoint"]
    WEB_DIRECTORY = "./web"
