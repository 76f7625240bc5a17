"""Lines for `inside`: the pack's own modules, small models with drawn weights, and their inputs."""

from tests.host.server import ROOT

WEIGHTS = str(ROOT / "tests/weights.py")
"""For the name `weights`, which `CORE` wants."""

CORE = """
import importlib, importlib.util
from dataclasses import replace
from safetensors.torch import save_file

def core(name):
    return importlib.import_module(f"{pack.__name__}.{name}")

spec = importlib.util.spec_from_file_location("swift_test_weights", weights)
drawing = importlib.util.module_from_spec(spec)
spec.loader.exec_module(drawing)
fill_ = drawing.fill_

RUNTIME = core("nodes.host.memory").make_runtime(core("swift_core.precision").FP32)

def noise(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

def load_bundled():
    return NODES["LoadSwiftModels"].execute(models="swift-tiny (bundled)").result
"""

SMALL = (
    CORE
    + """
flow, plans = core("swift_core.flow.recipe"), core("swift_core.segments.plan")
Recipe, SolverName = flow.Recipe, flow.SolverName
motions, refines = core("swift_core.stages.motion"), core("swift_core.stages.refine")
prompts, guided = core("swift_core.stages.prompt"), core("nodes.host.guided")
stages = core("nodes.host.core_stages")
Finished = core("swift_core.segments.sampler").Finished
PixelShape = core("swift_core.geometry").PixelShape
configs = core("swift_core.model.config")
WanDiT = core("swift_core.model.dit").WanDiT

def small_dit(in_channels, out_channels=48, seed=0):
    config = replace(
        configs.WAN22_TI2V_5B, in_channels=in_channels, out_channels=out_channels,
        dim=256, ffn_dim=320, heads=2, layers=2,
    )
    return fill_(WanDiT(config), seed).eval().requires_grad_(False)

vaes, autoencoder = core("swift_core.vae.config"), core("swift_core.vae.autoencoder")

def small_vae(channels):
    config = vaes.VAEConfig(
        latent_channels=channels, encoder_dim=8, decoder_dim=8, dim_mult=(1, 2, 2),
        residual_blocks=1, temporal_downsample=(True, True), patch=2, residual=True,
        latent_mean=(0.1,) * channels, latent_std=(0.8,) * channels,
    )
    return fill_(autoencoder.WanVAE(config)).eval().requires_grad_(False)

def as_model(dit, name):
    path = f"{folder_paths.models_dir}/{name}.safetensors"
    save_file(dit.state_dict(), path)
    return comfy.sd.load_diffusion_model(path)

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
)
