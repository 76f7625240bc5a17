"""What a user sees while it works: the bar to its end, and pictures of the right shape."""

import io

import pytest
from PIL import Image

from tests.host.tiny import FRAMES, HEIGHT, SEGMENTS, STEPS, WIDTH, tiny

pytestmark = pytest.mark.host

LATENT_FRAMES = (FRAMES - 1) // 4 + 1


@pytest.fixture(scope="module")
def run(server):
    made = tiny(server, seed=21)
    decode = {"samples": made.latent, "vae": made.vae}
    nodes = {
        "motion": made.motion[0],
        "sampler": made.sampler.id,
        "images": made.graph.add("SwiftVAEDecodeTiled", **decode).id,
        "video": made.graph.add("SwiftVAEDecodeToVideo", **decode, fps=16.0, codec="h264").id,
        "core's": made.graph.add("VAEDecode", **decode).id,
    }
    made.graph.keep([nodes["images"], 0], "images")
    made.graph.keep([nodes["video"], 0], "video")
    made.graph.keep([nodes["core's"], 0], "core's")
    made.graph.keep([nodes["sampler"], 1], "plan")
    return server.run(made.graph), nodes


@pytest.mark.parametrize(
    ("node", "total"),
    [
        ("motion", 2 * LATENT_FRAMES + STEPS),
        ("sampler", LATENT_FRAMES + SEGMENTS * STEPS),
        ("images", LATENT_FRAMES),
        ("video", LATENT_FRAMES),
        ("core's", LATENT_FRAMES),
    ],
)
def test_the_bar_goes_up_to_its_end(run, node, total):
    outcome, nodes = run
    seen = [value for value, of in outcome.progress(nodes[node]) if of == total]
    assert seen == sorted(seen)
    assert seen[-1] == total
    assert len(set(seen)) > 2 or node in ("images", "video", "core's")


def pictures(run, node):
    outcome, nodes = run
    shown = [each for each in outcome.previews if each.data["node_id"] == nodes[node]]
    assert all(each.image.startswith(b"\xff\xd8") for each in shown)
    return [Image.open(io.BytesIO(each.image)).convert("RGB") for each in shown]


def test_stage1_shows_a_picture_in_every_step(run):
    shown = pictures(run, "motion")
    assert len(shown) == STEPS
    for each in shown:
        assert each.height / each.width == pytest.approx(HEIGHT / WIDTH, abs=0.01)
        assert max(each.size) == 512
        assert len(each.getcolors(each.width * each.height)) > 50, "one colour shows nothing"
    assert shown[0].tobytes() != shown[-1].tobytes()


def test_stage2_shows_the_segment_over_a_strip_of_all(run):
    """One thumbnail for each segment: the second is dark until its turn comes."""
    shown = pictures(run, "sampler")
    assert len(shown) == SEGMENTS * STEPS
    large = HEIGHT / WIDTH
    for index, each in enumerate(shown):
        assert each.height / each.width == pytest.approx(large * (1 + 1 / SEGMENTS), abs=0.01)
        strip = round(each.height * (1 - 1 / (SEGMENTS + 1)))
        halves = [
            each.crop(
                (
                    half * each.width // 2 + 4,
                    strip + 4,
                    (half + 1) * each.width // 2 - 4,
                    each.height - 4,
                )
            )
            for half in range(2)
        ]
        assert max(high for _, high in halves[0].getextrema()) > 60
        second = max(high for _, high in halves[1].getextrema())
        assert (second > 60) == (index >= STEPS)


def test_the_plan_is_shown(run):
    outcome, nodes = run
    plan = outcome.kept["plan"]
    assert f"{WIDTH}x{HEIGHT}, {FRAMES} frames" in plan
    assert f"segments  {SEGMENTS}" in plan
    assert outcome.outputs[nodes["sampler"]]["text"] == [plan]
