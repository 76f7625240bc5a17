"""A core MODEL samples what our own DiT samples: same small weights, same noise, whole latents.

Tolerance: fp32 on both sides; 24 forwards that feed each other, of which guidance multiplies the
difference by up to 5, end up to 4e-5 apart (measured): the order of sums.
"""

from itertools import cycle, product

import pytest

from tests.host.lines import SMALL, WEIGHTS

pytestmark = pytest.mark.host

CLOSE = 1e-4


@pytest.fixture
def run(inside):
    """Run lines after `SMALL`."""
    return lambda code, **values: inside(SMALL + code, weights=WEIGHTS, **values)


STAGE2 = """
reference = noise(1, 48, 9, 8, 12, seed=3)
result = []
dits = {channels: small_dit(channels) for channels in (48, 96)}
models = {channels: as_model(dit, f"detail{channels}") for channels, dit in dits.items()}
for channels, rope, neighbors, right, cfg, solver, strength in cases:
    dit, model = dits[channels], models[channels]
    plan = plans.plan_segments(9, plans.SegmentSettings(
        segment_length=3, neighbors=neighbors, right_neighbors=right,
        rope=plans.RopePositions(rope),
    ))
    recipe = Recipe(steps=3, cfg=cfg, sigma_shift=5.0, solver=SolverName(solver))
    settings = refines.RefineSettings(
        plan=plan, recipe=recipe, seed=7, segment_seeds={1: 99}, reference_strength=strength
    )
    ours = refines.refine(dit, reference, own_prompt(dit, recipe), settings, runtime=RUNTIME)
    theirs = stages.refine_with_model(
        model, reference, guidance(cfg), settings, finished=Finished(), runtime=RUNTIME
    )
    result.append(distance(theirs, ours))
"""


def test_stage2(run):
    """Both kinds of DiT, however the clip is cut, placed, guided and solved."""
    turns = cycle((1, 0, 2))
    cases = [
        (channels, rope, next(turns), 0, cfg, solver, None)
        for channels, rope, cfg in product((48, 96), ("global", "local"), (1.0, 3.0))
        for solver in ("euler", "renoise", "unipc")[: 3 if cfg == 1 else 2]
    ]
    cases += [(96, "global", 1, 2, 1.0, "euler", None), (96, "local", 2, 0, 3.0, "unipc", 0.3)]
    check(cases, run(STAGE2, cases=cases))


STAGE1 = """
SwiftVAE, types = core("nodes.host.exact_vae").SwiftVAE, core("nodes.types")
Slot = core("swift_core.weights.model_set").Slot

def slot(module):
    return Slot(config=module.config, source="test", load=lambda _precision: module)

dits = {
    "A14B": (small_dit(36, 16), None, small_vae(16)),
    "A14B, two experts": (small_dit(36, 16), small_dit(36, 16, seed=1), small_vae(16)),
    "TI2V": (small_dit(48), None, small_vae(48)),
}
models = {
    name: types.CoreMotionModel(
        high=as_model(high, f"{name} high"),
        low=low and as_model(low, f"{name} low"),
        vae=SwiftVAE(vae, torch.float32),
    )
    for name, (high, low, vae) in dits.items()
}
picture = noise(40, 70, 3, seed=5).sigmoid()
result = []
for name, cfg, solver in cases:
    high, low, vae = dits[name]
    own = types.OwnMotionModel(
        motion_high=slot(high), motion_low=low and slot(low), motion_vae=slot(vae), boundary=0.9
    )
    recipe = Recipe(steps=5, cfg=cfg, sigma_shift=5.0, solver=SolverName(solver))
    settings = motions.MotionSettings(
        shape=PixelShape(pixel_frames=13, height=64, width=96), recipe=recipe, seed=7
    )
    words = prompts.PromptEmbeddings(positive=POSITIVE[:, :40], negative=NEGATIVE[:, :30])
    ours = motions.make_motion(own, picture, words, settings, runtime=RUNTIME)
    theirs = stages.make_core_motion(
        models[name], picture, guidance(cfg), settings, runtime=RUNTIME
    )
    assert 0.1 < ours.mean() < 0.9
    result.append(distance(theirs, ours))
"""


def test_stage1(run):
    """A14B's form, one model and two experts, and TI2V's."""
    cases = [
        (form, cfg, solver)
        for form in ("A14B", "A14B, two experts", "TI2V")
        for cfg, solver in ((1.0, "euler"), (1.0, "renoise"), (1.0, "unipc"), (3.0, "unipc"))
    ]
    check(cases, run(STAGE1, cases=cases))


GUEST = """
plan = plans.plan_segments(9, plans.SegmentSettings(segment_length=3, neighbors=1))
recipe = Recipe(steps=2, cfg=3.0, sigma_shift=5.0, solver=SolverName.EULER)
settings = refines.RefineSettings(plan=plan, recipe=recipe, seed=7)
reference = noise(1, 48, 9, 8, 12, seed=3)
dit = small_dit(96)
model = as_model(dit, "guest")

def refine(model, runtime=RUNTIME):
    return stages.refine_with_model(
        model, reference, guidance(3.0), settings, finished=Finished(), runtime=runtime
    )

def plain():
    # As many frames as a segment's window: places in time that stayed behind would show.
    latent = {"samples": torch.zeros(1, 48, plan.largest, 8, 12)}
    words = guidance(3.0)
    made = NODES["KSampler"]().sample(
        model, 5, 2, 3.0, "euler", "simple", words.positive, words.negative, latent
    )
    return made[0]["samples"]

def traces():
    inner = model.model.diffusion_model
    hooks = sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in inner.modules()
    )
    return [
        sorted(vars(inner)), sorted(model.object_patches), sorted(model.object_patches_backup),
        sorted(map(str, model.wrappers)), len(model.patches), hooks,
        sorted(map(str, model.model_options["transformer_options"])),
    ]

before, clean = plain(), traces()
"""

LORA = """
down, up = noise(8, 256, seed=11) / 16, noise(256, 8, seed=12) / 3
name = "blocks.1.self_attn.v"
path = f"{folder_paths.models_dir}/loras/small.safetensors"
import pathlib
pathlib.Path(path).parent.mkdir(exist_ok=True)
save_file({
    f"diffusion_model.{name}.lora_A.weight": down, f"diffusion_model.{name}.lora_B.weight": up,
}, path)
changed = NODES["LoraLoaderModelOnly"]().load_lora_model_only(model, "small.safetensors", 0.7)[0]
without, with_lora = refine(model), refine(changed)
assert distance(with_lora, without) > 0.05, distance(with_lora, without)
weight = dit.get_submodule(name).weight
weight += 0.7 * up @ down
merged = refines.refine(dit, reference, own_prompt(dit, recipe), settings, runtime=RUNTIME)
assert torch.equal(refine(model), without)
assert torch.equal(plain(), before)
assert traces() == clean
result = distance(with_lora, merged)
"""


def test_a_lora_counts_and_stays_with_its_model(run):
    """Through core's own node; and the MODEL without it is what it was."""
    assert run(GUEST + LORA) < CLOSE


@pytest.mark.parametrize("moment", ["after", "between steps", "inside a step"])
def test_the_model_is_left_as_it_was(run, moment):
    """After a run, and after one that was stopped."""
    run(GUEST + LEFT, moment=moment)


LEFT = """
from dataclasses import replace
stop = comfy.model_management.InterruptProcessingException
heard, kept = [], {}
whole = refine(model)

def observe(progress):
    heard.append(progress)
    if moment == "between steps" and len(heard) == 3:
        raise stop

def go(finished, runtime):
    return stages.refine_with_model(
        model, reference, guidance(3.0), settings, finished=finished, runtime=runtime
    )

def in_a_block(*_):
    if len(heard) == 3:
        raise stop

if moment == "inside a step":
    handle = model.model.diffusion_model.blocks[1].register_forward_pre_hook(in_a_block)
try:
    go(Finished(keep=lambda index, made: kept.update({index: made.clone()})),
       replace(RUNTIME, observe=observe))
except stop:
    assert moment != "after" and len(heard) == 3
else:
    assert moment == "after" and len(heard) == 6
if moment == "inside a step":
    handle.remove()
assert traces() == clean, (traces(), clean)
assert torch.equal(plain(), before)
comfy.model_management.unload_all_models()
assert torch.equal(plain(), before)
assert list(kept) == ([0, 1, 2] if moment == "after" else [0])
heard.clear()
assert torch.equal(go(Finished(targets=kept), replace(RUNTIME, observe=heard.append)), whole)
assert len(heard) == (3 if moment == "after" else 5), "a finished segment is one step"
"""


def test_core_conditioning_is_understood(run):
    """Prompts that are combined, weighted or end early: all that a MODEL can and ours cannot."""
    run(
        GUEST
        + """
def with_positive(*prompts):
    words = guided.Guidance(positive=list(prompts), negative=[[NEGATIVE, {}]], cfg=3.0)
    return stages.refine_with_model(
        model, reference, words, settings, finished=Finished(), runtime=RUNTIME
    )

alone, other = with_positive([POSITIVE, {}]), noise(1, 512, 4096, seed=9)
twice = with_positive([POSITIVE, {}], [POSITIVE, {}])
both = with_positive([POSITIVE, {}], [other, {}])
late = with_positive(
    [POSITIVE, {"start_percent": 0.0, "end_percent": 0.5}],
    [other, {"start_percent": 0.5, "end_percent": 1.0}],
)
assert distance(twice, alone) < 1e-4
assert distance(both, alone) > 0.01
assert distance(late, alone) > 0.01 and distance(late, both) > 0.01
assert torch.equal(plain(), before)
"""
    )


TOLD = """
types, exact = core("nodes.types"), core("nodes.host.exact_vae")
high, low = (as_model(small_dit(36, 16, seed=seed), f"told {seed}") for seed in (1, 2))
vae = exact.SwiftVAE(small_vae(16), torch.float32)
pair = types.CoreMotionModel(high=high, low=low, vae=vae)
alone = types.CoreMotionModel(high=high, low=None, vae=vae)
assert pair.get_models() == [high, low, vae.patcher]
assert alone.get_models() == [high, vae.patcher]
caching, patching = __import__("comfy_execution.caching").caching, comfy.model_patcher
if hasattr(caching, "all_outputs_dynamic"):
    outputs = [[pair], [high]]
    assert not caching.all_outputs_dynamic(outputs)
    for patcher in (high, low, vae.patcher):
        patcher.is_dynamic = lambda: True
    assert caching.all_outputs_dynamic(outputs)
if hasattr(patching, "PromptModelTracker"):
    told = []
    for patcher in (high, low, vae.patcher):
        patcher.set_in_use_by_current_prompt = lambda in_use, of=patcher: told.append((of, in_use))
    tracker = patching.PromptModelTracker()
    tracker.add(([pair],))
    tracker.end()
    order = [high, low, vae.patcher]
    assert told == [(of, True) for of in order] + [(of, False) for of in order], told
"""


def test_a_motion_model_of_files_shows_its_models_to_comfyui(run):
    """Which lets go of no weights that the prompt at hand uses."""
    run(TOLD)


def check(cases, distances):
    far = [(case, far) for case, far in zip(cases, distances, strict=True) if not far < CLOSE]
    assert not far
