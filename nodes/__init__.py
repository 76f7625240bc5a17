"""The pack's nodes: each a schema and a few lines that translate for ``swift_core``."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .csg_2k_sampler import CSG2KSampler
from .load_swift_models import LoadSwiftModels
from .motion_reference import MotionReference360P
from .segment_overlap import SegmentOverlapConfig
from .vae_decode import VAEDecodeTiled, VAEDecodeToVideo

NODES: list[type[io.ComfyNode]] = [
    LoadSwiftModels,
    MotionReference360P,
    SegmentOverlapConfig,
    CSG2KSampler,
    VAEDecodeTiled,
    VAEDecodeToVideo,
]


class SwiftExtension(ComfyExtension):
    """What ComfyUI asks for the nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Give all nodes."""
        return NODES


async def comfy_entrypoint() -> SwiftExtension:
    """Hand the pack to ComfyUI."""
    return SwiftExtension()
