"""Core's nodes before, between and after ours."""

import pytest
import torch

from tests.host.graph import Graph
from tests.host.tiny import FRAMES, HEIGHT, WIDTH, picture, tiny

pytestmark = pytest.mark.host

SAME = {"atol": 1e-5, "rtol": 0}
"""The same fp32 sums, in chunks or not."""


@pytest.fixture(scope="module")
def whole(server):
    """A plain run, decoded in every way."""
    made = tiny(server)
    graph = made.graph
    graph.keep(made.motion, "motion")
    graph.keep(made.latent, "latent")
    decode = {"samples": made.latent, "vae": made.vae}
    tiles = {"overlap": 0, "temporal_size": 64, "temporal_overlap": 8}
    ways = {
        "ours": graph.add("SwiftVAEDecodeTiled", **decode),
        "core": graph.add("VAEDecode", **decode),
        "one tile": graph.add("VAEDecodeTiled", **decode, tile_size=512, **tiles),
        "tiles": graph.add("VAEDecodeTiled", **decode, tile_size=64, **tiles | {"overlap": 32}),
    }
    for name, node in ways.items():
        graph.keep(node[0], name)
    return server.run(graph).kept


def test_what_the_nodes_give(whole):
    assert whole["motion"].shape == (FRAMES, HEIGHT // 4, WIDTH // 4, 3)
    assert whole["ours"].shape == (FRAMES, HEIGHT, WIDTH, 3)
    for name in ("motion", "ours"):
        assert whole[name].dtype == torch.float32
        assert 0 <= whole[name].min() < whole[name].max() <= 1
    assert set(whole["latent"]) == {"samples"}


def test_core_decodes_our_latents(whole):
    core = whole["core"].reshape(whole["ours"].shape)
    assert torch.equal(whole["ours"], core)
    torch.testing.assert_close(whole["one tile"].reshape(core.shape), core, **SAME)


def test_core_decodes_our_latents_in_tiles(whole):
    """Tiles see less than the whole: near, and never equal. Another latent would be far."""
    tiles = whole["tiles"].reshape(whole["ours"].shape)
    near = (tiles - whole["ours"]).abs().mean()
    assert 0 < near < 0.5 * whole["ours"].std()


def test_we_decode_what_core_encodes(server):
    graph = Graph()
    models = graph.add("LoadSwiftModels", models="swift-tiny (bundled)")
    frames = server.give(graph, picture(9, 64, 128, 3))
    encoded = graph.add("VAEEncode", pixels=frames, vae=models[2])
    tiles = {"tile_size": 512, "overlap": 64, "temporal_size": 64, "temporal_overlap": 8}
    tiled = graph.add("VAEEncodeTiled", pixels=frames, vae=models[2], **tiles)
    graph.keep(encoded[0], "encoded")
    graph.keep(tiled[0], "encoded in one tile")
    for name, node in (("ours", "SwiftVAEDecodeTiled"), ("core", "VAEDecode")):
        graph.keep(graph.add(node, samples=encoded[0], vae=models[2])[0], name)
    kept = server.run(graph).kept
    assert kept["ours"].shape == (9, 64, 128, 3)
    whole, tile = (kept[name]["samples"] for name in ("encoded", "encoded in one tile"))
    torch.testing.assert_close(tile, whole, **SAME)
    torch.testing.assert_close(kept["ours"], kept["core"].reshape(kept["ours"].shape), **SAME)


def run_for(server, made, output, name="kept"):
    made.graph.keep(output, name)
    return server.run(made.graph).kept[name]


def test_an_emptied_prompt_is_a_negative_one(server, whole):
    """In Stage I: that is what listens to words."""
    made = tiny(server)
    empty = made.graph.add("ConditioningZeroOut", conditioning=made.words[0])
    made.graph.prompt[made.motion[0]]["inputs"] |= {"cfg": 3.0, "negative": empty[0]}
    guided = run_for(server, made, made.motion)
    assert guided.isfinite().all()
    assert (guided - whole["motion"]).abs().max() > 0.01


def test_two_prompts_in_one_are_refused(server):
    made = tiny(server)
    both = made.graph.add(
        "ConditioningCombine", conditioning_1=made.words[0], conditioning_2=made.words[0]
    )
    made.graph.prompt[made.sampler.id]["inputs"]["positive"] = both[0]
    assert refusal(server, made) == (
        "positive holds 2 prompts; SwiftI2V's own models take one: connect one CLIPTextEncode "
        "without Conditioning (Combine), or use a core MODEL."
    )


def refusal(server, made):
    """Give what the user is shown, which must come from the node and before it samples."""
    made.graph.keep(made.latent, "latent")
    outcome = server.run(made.graph, check=False)
    assert outcome.error.kind == "failed"
    assert outcome.error.node_id == made.sampler.id
    return outcome.error.message


def test_transparency_and_further_pictures_are_left_alone(server, whole):
    """Only the colours of the first picture count."""
    image = picture(1, 100, 80, 3)
    clear = torch.cat((image, torch.rand(1, 100, 80, 1)), dim=-1)
    many = torch.cat((clear, picture(2, 100, 80, 4, seed=9)))
    latent = run_for(server, made := tiny(server, image=many), made.latent)
    assert torch.equal(latent["samples"], whole["latent"]["samples"])


def test_one_channel_is_grey(server):
    grey = picture(1, 100, 80, 1)
    made = [tiny(server, image=image) for image in (grey, grey.expand(1, 100, 80, 3).clone())]
    one, three = (run_for(server, each, each.latent)["samples"] for each in made)
    assert torch.equal(one, three)


def test_the_motion_clip_may_be_any_clip(server, whole):
    """Of another size, a little off in shape, with transparency; and it counts."""
    clip = picture(FRAMES, 100, 70, 4, seed=5)
    latent = run_for(server, made := tiny(server, motion=clip), made.latent)["samples"]
    assert latent.shape == whole["latent"]["samples"].shape
    assert (latent - whole["latent"]["samples"]).abs().max() > 0.01
    again = run_for(server, made := tiny(server, motion=whole["motion"]), made.latent)
    assert torch.equal(again["samples"], whole["latent"]["samples"])


def test_no_size_is_four_times_the_clip(server, whole):
    made = tiny(server, motion=whole["motion"], width=0, height=0)
    latent = run_for(server, made, made.latent)
    assert torch.equal(latent["samples"], whole["latent"]["samples"])


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (
            (16, 48, 32),
            "the motion clip has 16 frames, the video is to have 13; cut or retime the clip to 13 "
            "frames (a length is 4n+1).",
        ),
        (
            (1, 48, 32),
            "the motion clip has 1 frame, the video is to have 5; cut or retime the clip to 5 "
            "frames (a length is 4n+1).",
        ),
        (
            (17, 32, 48),
            "the motion clip is 48x32, the video is to be 128x192: 56% of every frame would be cut "
            "away. Crop the clip to the video's shape, or ask for a video of 192x128.",
        ),
    ],
)
def test_a_clip_that_does_not_fit_is_refused(server, shape, said):
    made = tiny(server, motion=picture(*shape, 3))
    assert refusal(server, made) == said
