"""The file that is decoded into: its stream through Save Video, and the memory it takes."""

import io

import av
import pytest
import torch

from swift_core.media.codecs import VideoCodec
from tests.host.graph import Graph
from tests.host.lines import CORE, WEIGHTS

pytestmark = pytest.mark.host

FRAMES = 9
KEPT = {
    ("auto", "auto"): {"h264", "hevc10", "prores", "ffv1"},
    ("mp4", "auto"): {"h264", "hevc10", "prores"},  # FFV1's file is Matroska
    ("mp4", "h264"): {"h264"},
}
"""What Save Video takes over as it is, by what it is asked for; the rest it stores as H.264."""


def packets(opened):
    with av.open(opened) as container:
        (stream,) = container.streams
        name, zero = stream.codec_context.name, stream.start_time or 0
        found = [
            (float((packet.pts - zero) * stream.time_base), bytes(packet))
            for packet in container.demux(stream)
            if packet.size
        ]
        return name, sorted(found)


@pytest.mark.parametrize("codec", [codec.value for codec in VideoCodec])
def test_the_stream_is_saved_as_it_was_written(server, codec):
    """Packet by packet where nothing else is asked for; with the same frames where something is."""
    graph = Graph()
    models = graph.add("LoadSwiftModels", models="swift-tiny (bundled)")
    noise = torch.randn(1, 48, 3, 8, 16, generator=torch.Generator().manual_seed(0))
    latent = server.give(graph, {"samples": noise}, "latent")
    video = graph.add("SwiftVAEDecodeToVideo", samples=latent, vae=models[2], fps=24.0, codec=codec)
    saved = {}
    for asked in KEPT:
        form, how = asked
        options = {"format": form, "codec": how, "format.codec": how}
        saved[asked] = graph.add("SaveVideo", video=video[0], filename_prefix="video", **options)
    before = set((server.base / "temp").iterdir())
    outcome = server.run(graph)
    (written,) = set((server.base / "temp").iterdir()) - before
    name, expected = packets(str(written))
    due = pytest.approx([n / 24 for n in range(FRAMES)], abs=1e-3)  # Matroska counts milliseconds
    assert [seconds for seconds, _ in expected] == due
    for asked, node in saved.items():
        (file,) = outcome.files(node.id)
        now, found = packets(io.BytesIO(server.view(file)))
        assert [seconds for seconds, _ in found] == due
        if codec in KEPT[asked]:
            assert now == name
            assert [data for _, data in found] == [data for _, data in expected]
        else:
            assert now == "h264" != name


def test_a_clip_is_never_one_batch(inside):
    """Of all tensors that come into being, the largest is a chunk's; an IMAGE batch would show."""
    largest = inside(
        CORE
        + """
from torch.utils._python_dispatch import TorchDispatchMode

class Largest(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return made

*_, vae, _ = load_bundled()
samples = {"samples": noise(1, 48, 64, 8, 8, seed=1)}
with torch.inference_mode():
    with Largest() as streamed:
        video = NODES["SwiftVAEDecodeToVideo"].execute(samples, vae, 16.0, "ffv1").result[0]
    with Largest() as batch:
        images = NODES["SwiftVAEDecodeTiled"].execute(samples, vae).result[0]
assert video.get_components().images.shape == images.shape == (253, 64, 64, 3)
result = [streamed.numel / images.numel(), batch.numel / images.numel()]
""",
        weights=WEIGHTS,
    )
    assert largest[0] < 0.5
    assert largest[1] == 1
