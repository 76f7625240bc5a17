"""The whole graph with the bundled set, at a size that takes a moment."""

from dataclasses import dataclass

import torch

from tests.host.graph import Graph, Node
from tests.host.server import Server

WIDTH, HEIGHT, FRAMES, STEPS, SEGMENTS = 128, 192, 17, 2, 2


def picture(*shape: int, seed: int = 0) -> torch.Tensor:
    """Give an IMAGE batch of soft shapes, the same for the same seed."""
    frames, height, width, channels = shape
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(frames, channels, 4, 4, generator=draw)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return fine.permute(0, 2, 3, 1).contiguous()


@dataclass(frozen=True)
class Tiny:
    """A graph and its nodes; more can be added."""

    graph: Graph
    models: Node
    words: Node
    motion: list
    sampler: Node

    @property
    def latent(self) -> list:
        return self.sampler[0]

    @property
    def vae(self) -> list:
        return self.models[2]


def tiny(
    server: Server,
    *,
    image: torch.Tensor | None = None,
    motion: torch.Tensor | None = None,
    seed: int = 3,
    **sampler,
) -> Tiny:
    """Build Stage I, or a given motion clip, and Stage II in two segments.

    Args:
        sampler: more inputs of CSG2KSampler.
    """
    graph = Graph()
    models = graph.add("LoadSwiftModels", models="swift-tiny (bundled)")
    words = graph.add("CLIPTextEncode", clip=models[3], text="slow zoom in")
    given = server.give(graph, picture(1, 100, 80, 3) if image is None else image, "picture")
    recipe = {"steps": STEPS, "cfg": 1.0, "seed": seed, "positive": words[0], "image": given}
    if motion is None:
        clip = graph.add(
            "MotionReference360P",
            motion_model=models[0],
            width=WIDTH // 4,
            height=HEIGHT // 4,
            pixel_frames=FRAMES,
            **recipe,
        )[0]
    else:
        clip = server.give(graph, motion, "motion")
    segments = graph.add("SegmentOverlapConfig", segment_length=2, neighbors=1)
    inputs = {"width": WIDTH, "height": HEIGHT, "segments": segments[0], **recipe, **sampler}
    made = graph.add("CSG2KSampler", detail_model=models[1], vae=models[2], motion=clip, **inputs)
    return Tiny(graph, models, words, clip, made)
