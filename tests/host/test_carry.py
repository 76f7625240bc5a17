"""The picture's detail in the enlarged clip: as asked for, or as the models want."""

import re

import pytest
import torch
from torch.nn import functional as F

from swift_core.weights.bundled import open_bundled_set
from tests.host.lines import SMALL, WEIGHTS
from tests.host.tiny import FRAMES, HEIGHT, WIDTH, tiny

pytestmark = pytest.mark.host

REFUSAL = "carry is 7; it is a share of the picture's detail: from 0 (none) to 1 (all)."


def moving():
    """Give a picture full of detail, and a small clip in which it moves to the left."""
    draws = torch.Generator().manual_seed(0)
    sizes = ((12, 8), (48, 32), (HEIGHT, WIDTH))
    layers = [torch.rand(1, 3, *size, generator=draws) for size in sizes]
    large = sum(F.interpolate(each, (HEIGHT, WIDTH), mode="bicubic") for each in layers) / 3
    frames = torch.cat([large.roll(-2 * index, dims=3) for index in range(FRAMES)]).clamp(0, 1)
    small = F.interpolate(frames, scale_factor=0.25, mode="area")
    picture, clip = (each.permute(0, 2, 3, 1).contiguous() for each in (frames[:1], small))
    return picture, clip


def graph_of(server, **sampler):
    picture, clip = moving()
    return tiny(server, image=picture, motion=clip, **sampler)


SHARES = {"left out": {}, "-1": {"carry_detail": -1.0}, "0": {"carry_detail": 0.0}}
SHARES |= {"1": {"carry_detail": 1.0}, "of the set": {"carry_detail": open_bundled_set().carry}}


@pytest.fixture(scope="module")
def made(server):
    """Sample with every share; give each one's frames, and the plan in words."""
    start = graph_of(server)
    graph, given = start.graph, start.graph.prompt[start.sampler.id]["inputs"]
    samplers = {name: graph.add("CSG2KSampler", **given, **share) for name, share in SHARES.items()}
    for name, sampler in samplers.items():
        frames = graph.add("SwiftVAEDecodeTiled", samples=sampler[0], vae=start.vae)
        graph.keep(frames[0], name)
    outcome = server.run(graph, timeout=300)
    words = {name: outcome.outputs[node.id]["text"][0] for name, node in samplers.items()}
    return outcome.kept, words


def test_detail_is_carried_into_all_frames_but_the_first(made):
    frames, words = made
    without, carried = frames["0"], frames["1"]
    assert without.shape == carried.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert torch.equal(carried[0], without[0])
    apart = (carried - without).abs().mean((1, 2, 3))
    assert apart[1:].min() > 1e-3, apart
    assert "carried" not in words["0"]
    assert re.search(r"reference: .*, 100% of the picture's detail carried along\n", words["1"])


def test_minus_one_is_what_the_set_says(made):
    frames, words = made
    for name in ("left out", "-1"):
        assert torch.equal(frames[name], frames["of the set"])
        assert ("carried" in words[name]) == ("carried" in words["of the set"])


def test_what_is_no_share_is_refused(server):
    """ComfyUI refuses a widget's value itself, and looks at none that comes by a link."""
    made = graph_of(server, carry_detail=7.0)
    made.graph.keep(made.latent, "latent")
    # What shows a plan by itself would run, and the rest be left out.
    del made.graph.prompt[made.graph.prompt[made.sampler.id]["inputs"].pop("segments")[0]]
    direct = server.run(made.graph, check=False).error
    assert direct.kind == "refused"
    assert re.search(r"Value 7(\.0)? bigger than max of 1", direct.message), direct.message

    made = graph_of(server)
    share = made.graph.add("PrimitiveFloat", value=7.0)
    made.graph.prompt[made.sampler.id]["inputs"]["carry_detail"] = share[0]
    made.graph.keep(made.latent, "latent")
    linked = server.run(made.graph, check=False).error
    assert (linked.kind, linked.node_id) == ("failed", made.sampler.id)
    assert linked.message == REFUSAL


WISHES = """
import types
sampling, errors = core("nodes.csg_2k_sampler"), core("swift_core.errors")
SwiftVAE = core("nodes.host.exact_vae").SwiftVAE
_, detail, vae, clip = load_bundled()
words = clip.encode_from_tokens_scheduled(clip.tokenize("pan left"))
brought, manager = [], comfy.model_management
manager.load_models_gpu = lambda models, **_: brought.extend(models)

class Asked(Exception):
    pass

def build_reference(*_, carry, **__):
    raise Asked(carry)

def open_vae(vae, **_):
    return vae

sampling.build_reference, sampling.open_vae = build_reference, open_vae

def carried(detail, *share, vae=vae, positive=words):
    sampler = NODES["CSG2KSampler"]
    sampler.hidden = types.SimpleNamespace(dynprompt=None, unique_id="1")
    inputs = dict(zip(("carry_detail",), share))
    try:
        sampler.execute(
            detail, vae, torch.rand(1, 96, 64, 3), torch.rand(9, 32, 16, 3), positive, 64, 128, 3,
            steps=1, cfg=1.0, resume=False, **inputs,
        )
    except Asked as asked:
        return asked.args[0]
    except errors.GeometryError as error:
        return str(error)

wanting = replace(detail, carry=0.25)
core_model = as_model(small_dit(48), "small")
other = {"vae": SwiftVAE(small_vae(48), torch.float32), "positive": [[POSITIVE, {}]]}
result = {
    "set": detail.carry,
    "wanted": [carried(wanting, *share) for share in ((), (-1.0,), (0.0,), (0.5,), (1.0,))],
    "core": [carried(core_model, *share, **other) for share in ((), (-1.0,), (0.5,))],
    "refused": [
        carried(wanting, 7.0),
        carried(core_model, 7.0, **other),
        carried(wanting, float("nan")),
    ],
}
assert brought == [], brought
"""


def test_asked_for_goes_before_wanted_and_refusal_before_any_work(inside):
    said = inside(SMALL + WISHES, weights=WEIGHTS)
    assert said["set"] == open_bundled_set().carry
    assert said["wanted"] == [0.25, 0.25, 0, 0.5, 1]
    assert said["core"] == [0, 0, 0.5]
    assert said["refused"] == [REFUSAL, REFUSAL, REFUSAL.replace("7", "nan")]
