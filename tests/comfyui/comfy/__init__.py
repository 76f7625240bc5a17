"""A stand-in for ComfyUI: what is inherited from at import, and nothing that works."""

import sys
from types import ModuleType

# Asked only by nodes that run, and none runs here.
for _name in (
    "cli_args",
    "latent_formats",
    "lora",
    "lora_convert",
    "model_base",
    "model_management",
    "patcher_extension",
    "samplers",
    "utils",
):
    sys.modules[f"{__name__}.{_name}"] = globals()[_name] = ModuleType(f"{__name__}.{_name}")
