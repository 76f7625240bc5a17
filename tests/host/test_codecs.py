"""Every codec of SwiftVAEDecodeToVideo, through core's Save Video."""

import io
import json

import av
import pytest
import torch

from swift_core.media.codecs import VideoCodec
from tests.host.graph import Graph

pytestmark = pytest.mark.host

NAMES = {"h264": "h264", "hevc10": "hevc", "prores": "prores", "ffv1": "ffv1"}


@pytest.mark.parametrize("codec", [codec.value for codec in VideoCodec])
def test_save_video_takes_it_over_as_it_is(server, codec):
    graph = Graph()
    models = graph.add("LoadSwiftModels", models="swift-tiny (bundled)")
    noise = torch.randn(1, 48, 2, 8, 16, generator=torch.Generator().manual_seed(0))
    latent = server.give(graph, {"samples": noise}, "latent")
    video = graph.add(
        "SwiftVAEDecodeToVideo", samples=latent, vae=models[2], fps=16.0, codec=codec, quality=-1
    )
    how = {"format": "auto", "codec": "auto", "format.codec": "auto"}
    saved = graph.add("SaveVideo", video=video[0], filename_prefix=f"codec/{codec}", **how)
    graph.keep(video[0], "video")
    outcome = server.run(graph)
    (file,) = outcome.files(saved.id)
    with av.open(io.BytesIO(server.view(file))) as container:
        (stream,) = container.streams
        assert stream.codec_context.name == NAMES[codec]
        assert (stream.width, stream.height) == (128, 64)
        assert sum(1 for _ in container.decode(stream)) == 5
        assert json.loads(container.metadata["prompt"])[video.id] == graph.prompt[video.id]
    assert outcome.kept["video"]["images"].shape == (5, 64, 128, 3)
    assert not [path for path in (server.base / "output/codec").iterdir() if path.suffix != ".mp4"]
