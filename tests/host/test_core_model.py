"""A core MODEL samples what our own DiT samples: same small weights, same noise, whole latents.

Tolerance: fp32 on both sides, and a forward of either differs from the other's by up to 2e-6 on
such sizes (measured), from the order of sums. A few dozen of them feed each other; guidance
multiplies the difference by up to 5 and UniPC divides differences of estimates by small steps.
"""

from itertools import cycle, product

import pytest

from tests.host.server import ROOT

pytestmark = pytest.mark.host

CLOSE = 1e-4
SMALL = """
import importlib, importlib.util
from dataclasses import replace
from safetensors.torch import save_file

def core(name):
    return importlib.import_module(f"{pack.__name__}.{name}")

spec = importlib.util.spec_from_file_location("swift_test_weights", weights)
fill_ = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fill_)
fill_ = fill_.fill_

Recipe, SolverName = (getattr(core("swift_core.flow.recipe"), n) for n in ("Recipe", "SolverName"))
plans = core("swift_core.segments.plan")
motions, refines = core("swift_core.stages.motion"), core("swift_core.stages.refine")
prompts, guided = core("swift_core.stages.prompt"), core("nodes.host.guided")
stages = core("nodes.host.core_stages")
Finished = core("swift_core.segments.sampler").Finished
PixelShape = core("swift_core.geometry").PixelShape
configs = core("swift_core.model.config")
WanDiT = core("swift_core.model.dit").WanDiT

RUNTIME = core("nodes.host.memory").make_runtime(core("swift_core.precision").FP32)

def small_dit(in_channels, out_channels=48, seed=0):
    config = replace(
        configs.WAN22_TI2V_5B, in_channels=in_channels, out_channels=out_channels,
        dim=256, ffn_dim=320, heads=2, layers=2,
    )
    return fill_(WanDiT(config), seed).eval().requires_grad_(False)

def as_model(dit, name):
    path = f"{folder_paths.models_dir}/{name}.safetensors"
    save_file(dit.state_dict(), path)
    return comfy.sd.load_diffusion_model(path)

def noise(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

POSITIVE, NEGATIVE = noise(1, 512, 4096, seed=1), noise(1, 512, 4096, seed=2)
POSITIVE[:, 40:] = 0  # as the text encoder leaves what the prompt does not fill
NEGATIVE[:, 30:] = 0

def guidance(cfg):
    return guided.Guidance(positive=[[POSITIVE, {}]], negative=[[NEGATIVE, {}]], cfg=cfg)

def own_prompt(dit, recipe):
    words = prompts.PromptEmbeddings(positive=POSITIVE[:, :40], negative=NEGATIVE[:, :30])
    return prompts.read_prompt(dit, words, recipe)

def distance(one, other):
    assert one.shape == other.shape and one.dtype == other.dtype == torch.float32
    assert other.isfinite().all() and other.std() > 0.1, other.std()
    return (one - other).abs().max().item()
"""
WEIGHTS = str(ROOT / "tests/weights.py")


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
vaes, autoencoder = core("swift_core.vae.config"), core("swift_core.vae.autoencoder")
SwiftVAE, types = core("nodes.host.vae").SwiftVAE, core("nodes.types")
Slot = core("swift_core.weights.model_set").Slot

def small_vae(channels):
    config = vaes.VAEConfig(
        latent_channels=channels, encoder_dim=8, decoder_dim=8, dim_mult=(1, 2, 2),
        residual_blocks=1, temporal_downsample=(True, True), patch=2, residual=True,
        latent_mean=(0.1,) * channels, latent_std=(0.8,) * channels,
    )
    return fill_(autoencoder.WanVAE(config)).eval().requires_grad_(False)

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


def check(cases, distances):
    far = [(case, far) for case, far in zip(cases, distances, strict=True) if not far < CLOSE]
    assert not far
