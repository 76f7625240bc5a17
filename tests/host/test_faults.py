"""Runs that are cancelled or fail, and the runs after them."""

import shutil

import pytest
import torch

from tests.host.graph import Graph
from tests.host.lines import SMALL, WEIGHTS
from tests.host.tiny import SEGMENTS, picture, tiny

pytestmark = pytest.mark.host

MOST_RUNS = 4
"""As the help says."""

LONG = 40
"""Steps: seconds of work, so that Cancel comes in the middle."""


def kept_segments(server):
    """List the segments that are kept for later."""
    return sorted((server.base / "user").rglob("segment-*"))


@pytest.fixture
def no_segments(server):
    """Begin without any from an earlier test."""
    for folder in {path.parent for path in kept_segments(server)}:
        shutil.rmtree(folder)


def forget(server):
    """Have the server forget what it has computed: the next run is a whole one."""
    server.http.post_json("/free", {"unload_models": True, "free_memory": True})
    # It does so between two runs, and does not see what it is told while it collects its garbage.
    graph = Graph()
    graph.keep(graph.add("EmptyImage", width=16, height=16, batch_size=1, color=0)[0], "between")
    server.run(graph)


def previews_of(outcome, node):
    return [shown for shown in outcome.previews if shown.data["node_id"] == node.id]


def cancel_after(server, graph, node, previews):
    """Queue a graph and press Cancel when a node has shown so many previews."""
    seen = []

    def enough(message):
        if message.type == "preview" and message.data["node_id"] == node:
            seen.append(message)
        return len(seen) == previews

    with server.client() as client:
        run = client.queue(graph.prompt)
        client.until(enough)
        client.interrupt(run)
        outcome = client.wait(run)
    assert outcome.error is not None, "it was done before Cancel came"
    assert (outcome.error.kind, outcome.error.node_id) == ("interrupted", node)


def test_stage1_is_cancelled(server):
    made = tiny(server, seed=11)
    motion = made.motion[0]
    made.graph.prompt[motion]["inputs"]["steps"] = LONG
    made.graph.keep(made.latent, "latent")
    cancel_after(server, made.graph, motion, previews=3)
    second = server.run(made.graph)
    forget(server)
    third = server.run(made.graph)
    assert motion in second.executed
    assert motion in third.executed
    assert torch.equal(second.kept["latent"]["samples"], third.kept["latent"]["samples"])


@pytest.mark.usefixtures("no_segments")
@pytest.mark.parametrize("resume", [True, False])
def test_stage2_is_cancelled_and_goes_on(server, resume):
    """A finished segment is not sampled again, and the clip is that of a whole run."""
    made = tiny(server, seed=12, motion=picture(17, 48, 32, 3), steps=LONG, resume=resume)
    made.graph.keep(made.latent, "latent")
    cancel_after(server, made.graph, made.sampler.id, previews=LONG + 5)
    assert len(kept_segments(server)) == (1 if resume else 0)
    second = server.run(made.graph)
    assert len(kept_segments(server)) == (SEGMENTS if resume else 0)
    forget(server)
    made.graph.prompt[made.sampler.id]["inputs"]["resume"] = False
    third = server.run(made.graph)
    assert len(previews_of(third, made.sampler)) == SEGMENTS * LONG
    steps = 1 + LONG if resume else SEGMENTS * LONG
    assert len(previews_of(second, made.sampler)) == steps
    assert torch.equal(second.kept["latent"]["samples"], third.kept["latent"]["samples"])


@pytest.mark.usefixtures("no_segments")
def test_a_segment_that_is_rolled_again_keeps_those_before_it(server):
    """And the clip is what it would have been with this seed from the beginning."""
    made = tiny(server, seed=18, motion=picture(17, 48, 32, 3))
    made.graph.keep(made.latent, "latent")
    first = server.run(made.graph)
    inputs = made.graph.prompt[made.sampler.id]["inputs"]
    inputs["segment_seeds"] = "1:77"
    second = server.run(made.graph)
    inputs["resume"] = False
    third = server.run(made.graph)
    inputs["resume"], inputs["segment_seeds"] = True, ""
    forget(server)
    fourth = server.run(made.graph)
    samples = [each.kept["latent"]["samples"] for each in (first, second, third, fourth)]
    assert f"1 of {SEGMENTS} segments were there" in second.outputs[made.sampler.id]["text"][0]
    assert torch.equal(samples[1], samples[2])
    assert not torch.equal(samples[0], samples[1])
    assert torch.equal(samples[3], samples[0])
    words = fourth.outputs[made.sampler.id]["text"][0]
    assert f"{SEGMENTS} of {SEGMENTS} segments were there already" in words


@pytest.mark.usefixtures("no_segments")
def test_what_comes_after_the_sampling_may_fail(server):
    """Segments stay when all are there: whoever died in the decode does not sample again."""
    made = tiny(server, seed=16, motion=picture(17, 48, 32, 3))
    made.graph.keep(made.latent, "latent")
    first = server.run(made.graph)
    assert len(kept_segments(server)) == SEGMENTS
    forget(server)
    # A refused decode makes people change this; it is no other run.
    made.graph.prompt[made.models.id]["inputs"]["memory_gb"] = 8.0
    second = server.run(made.graph)
    assert made.sampler.id in second.executed
    assert len(previews_of(second, made.sampler)) == SEGMENTS
    assert torch.equal(second.kept["latent"]["samples"], first.kept["latent"]["samples"])
    words = second.outputs[made.sampler.id]["text"][0]
    assert f"{SEGMENTS} of {SEGMENTS} segments were there already" in words


@pytest.mark.usefixtures("no_segments")
def test_only_the_newest_runs_are_kept(server):
    for seed in range(20, 26):
        made = tiny(server, seed=seed, motion=picture(17, 48, 32, 3))
        made.graph.keep(made.latent, "latent")
        server.run(made.graph)
    assert len({path.parent for path in kept_segments(server)}) == MOST_RUNS


@pytest.mark.usefixtures("no_segments")
@pytest.mark.parametrize("content", [b"", b"not a file of tensors", None])
def test_a_damaged_segment_is_sampled_again(server, content):
    """None: half of what was there."""
    made = tiny(server, seed=13, motion=picture(17, 48, 32, 3), steps=LONG)
    made.graph.keep(made.latent, "latent")
    forget(server)
    cancel_after(server, made.graph, made.sampler.id, previews=LONG + 5)
    (kept,) = kept_segments(server)
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2] if content is None else content)
    outcome = server.run(made.graph)
    assert len(previews_of(outcome, made.sampler)) == SEGMENTS * LONG
    assert kept.stat().st_size == len(whole)


def test_another_seed_begins_anew(server):
    """What was kept belongs to its own run only; that one still goes on afterwards."""
    made = tiny(server, seed=14, motion=picture(17, 48, 32, 3), steps=LONG)
    made.graph.keep(made.latent, "latent")
    cancel_after(server, made.graph, made.sampler.id, previews=LONG + 5)
    other = tiny(server, seed=15, motion=picture(17, 48, 32, 3), steps=LONG)
    other.graph.keep(other.latent, "latent")
    assert len(previews_of(server.run(other.graph), other.sampler)) == SEGMENTS * LONG
    assert len(previews_of(server.run(made.graph), made.sampler)) == 1 + LONG


def test_nodes_that_a_loop_has_made_are_told_apart(inside):
    """They are not in the graph that was queued; what leads to them still tells runs apart."""
    names = inside(
        SMALL
        + """
from comfy_execution.graph import DynamicPrompt
open_store = core("nodes.host.resume").open_store
reference = noise(1, 48, 3, 4, 4, seed=1)

def name(seed, text="pan left", other=0, reference=reference):
    prompt = DynamicPrompt({"1": {"class_type": "Loop", "inputs": {"other": other}}})
    words = {"class_type": "CLIPTextEncode", "inputs": {"text": text}}
    sampler = {"class_type": "CSG2KSampler", "inputs": {"seed": seed, "positive": ["1.0.1", 0]}}
    prompt.add_ephemeral_node("1.0.1", words, "1", "1")
    prompt.add_ephemeral_node("1.0.2", sampler, "1", "1")
    return open_store(prompt, "1.0.2", (reference,), {}).folder.name

result = [name(1), name(1), name(1, other=5), name(2), name(1, "pan right"),
          name(1, reference=reference + 1)]
""",
        weights=WEIGHTS,
    )
    assert names[0] == names[1] == names[2], "what does not lead to the sampler does not matter"
    assert len(set(names)) == 4


def test_a_model_file_that_was_replaced_begins_anew(inside):
    """Its name is the same, and so are segments' shapes."""
    names = inside(
        SMALL
        + """
import os
from pathlib import Path

import folder_paths
from comfy_execution.graph import DynamicPrompt

open_store = core("nodes.host.resume").open_store
folder = Path(folder_paths.get_folder_paths("vae")[0])
folder.mkdir(parents=True, exist_ok=True)
file = folder / "replaced.safetensors"

def name(content, at):
    file.write_bytes(content)
    os.utime(file, (at, at))
    graph = {
        "1": {"class_type": "VAELoader", "inputs": {"vae_name": "replaced.safetensors"}},
        "2": {"class_type": "CSG2KSampler", "inputs": {"vae": ["1", 0], "note": "../no.pth"}},
    }
    return open_store(DynamicPrompt(graph), "2", (noise(1, 48, 3, 4, 4, seed=1),), {}).folder.name

result = [name(b"a", 1), name(b"a", 1), name(b"b", 2), name(b"bb", 2)]
file.unlink()
""",
        weights=WEIGHTS,
    )
    assert names[0] == names[1]
    assert len(set(names)) == 3


def decoding(server):
    """Build a graph that decodes for seconds."""
    graph = Graph()
    models = graph.add("LoadSwiftModels", models="swift-tiny (bundled)")
    latent = torch.randn(1, 48, 32, 16, 32, generator=torch.Generator().manual_seed(1))
    given = server.give(graph, {"samples": latent}, "latent")
    inputs = {"samples": given, "vae": models[2], "fps": 16.0, "codec": "ffv1"}
    video = graph.add("SwiftVAEDecodeToVideo", **inputs)
    return graph, video


def files_of(server):
    return sorted(path.name for path in (server.base / "temp").rglob("*swift*"))


def test_decoding_is_cancelled(server):
    """Nothing stays of the video; the next one is whole."""
    graph, video = decoding(server)
    graph.keep(video[0], "video")
    before = files_of(server)

    def at_work(message):
        state = message.data.get("nodes", {}) if message.type == "progress_state" else {}
        return state.get(video.id, {}).get("value", 0) >= 3

    with server.client() as client:
        run = client.queue(graph.prompt)
        client.until(at_work)
        client.interrupt(run)
        outcome = client.wait(run)
    assert outcome.error is not None, "it was done before Cancel came"
    assert (outcome.error.kind, outcome.error.node_id) == ("interrupted", video.id)
    assert files_of(server) == before
    second = server.run(graph)
    assert second.kept["video"]["images"].shape[0] == 125
    assert len(files_of(server)) == len(before) + 1


def test_cancel_is_heard_inside_a_step(inside):
    """Between two blocks of our DiT; and the run after it is undisturbed."""
    inside(
        SMALL
        + """
_, detail, _, clip = load_bundled()
words = clip.encode_from_tokens_scheduled(clip.tokenize("slow zoom in"))
text = core("nodes.host.conditioning").prompt_embeddings(
    words, None, text_dim=detail.slot.config.text_dim, runtime=RUNTIME
)
recipe = Recipe(steps=2, cfg=1.0, sigma_shift=5.0, solver=SolverName.EULER)
plan = plans.plan_segments(5, plans.SegmentSettings(segment_length=2))
settings = refines.RefineSettings(plan=plan, recipe=recipe, seed=7)
reference = noise(1, 48, 5, 8, 8, seed=3)

def refine(observe=lambda progress: None):
    dit = detail.slot.load(None)
    prompt = prompts.read_prompt(dit, text, recipe)
    return refines.refine(
        dit, reference, prompt, settings, runtime=replace(RUNTIME, observe=observe)
    )

def hooks():
    modules = list(detail.slot.load(None).modules())
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)

whole, before = refine(), hooks()
dit = detail.slot.load(None)
seen, last = [], []

def press_cancel(*_):
    seen.append(1)
    if len(seen) == 3:
        comfy.model_management.interrupt_current_processing()

handles = [
    dit.blocks[0].register_forward_hook(press_cancel),
    dit.blocks[-1].register_forward_hook(lambda *_: last.append(1)),
]
heard = []
try:
    refine(heard.append)
except comfy.model_management.InterruptProcessingException:
    pass
else:
    raise AssertionError("not stopped")
assert len(seen) == 3 and len(last) == 2 == len(heard), (seen, last, heard)
for handle in handles:
    handle.remove()
assert torch.equal(refine(), whole)
assert hooks() == before == len(dit.blocks)
""",
        weights=WEIGHTS,
    )


def test_an_error_while_decoding_leaves_no_file(inside):
    inside(
        SMALL
        + """
import pathlib
decode = core("nodes.host.latents")
*_, vae, _ = load_bundled()
samples = {"samples": noise(1, 48, 4, 8, 8, seed=3)}
temp = pathlib.Path(folder_paths.get_temp_directory())
temp.mkdir(exist_ok=True)
whole = decode.decode_clip

def breaks(*args, **kwargs):
    for index, chunk in enumerate(whole(*args, **kwargs)):
        if index == 2:
            assert len(list(temp.iterdir())) == 1, "it writes while it decodes"
            raise ZeroDivisionError
        yield chunk

for codec in ("h264", "hevc10", "prores", "ffv1"):
    decode.decode_clip = breaks
    try:
        NODES["SwiftVAEDecodeToVideo"].execute(samples, vae, 16.0, codec)
    except ZeroDivisionError:
        pass
    else:
        raise AssertionError("no error")
    assert not list(temp.iterdir()), codec
    decode.decode_clip = whole
    NODES["SwiftVAEDecodeToVideo"].execute(samples, vae, 16.0, codec)
    (made,) = temp.iterdir()
    made.unlink()
""",
        weights=WEIGHTS,
    )
