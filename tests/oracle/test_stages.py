"""Whole stages against diffusers' WanImageToVideoPipeline: same small weights, same noise.

Tolerances: fp32 on both sides; a few DiT forwards (2e-5 each) feed each other, and the VAE's
decoder passes differences of the latent on about as they are.
"""

import pytest
import torch
from einops import rearrange

from swift_core.flow.noise import ClipNoise
from swift_core.flow.recipe import Recipe, SolverName
from swift_core.flow.sigmas import make_sigmas
from swift_core.geometry import PixelShape
from swift_core.segments.plan import SegmentSettings, plan_segments
from swift_core.stages.motion import MotionSettings, make_motion
from swift_core.stages.prompt import PromptEmbeddings, read_prompt
from swift_core.stages.refine import RefineSettings, refine
from tests.models import RUNTIME, SMALL_VAE, slot, small_dit, small_models, small_vae
from tests.oracles import diffusers, oracle_dit, oracle_vae
from tests.weights import fill_

pytestmark = pytest.mark.oracle

CLOSE = {"atol": 2e-4, "rtol": 0}
FOUR_STEPS = Recipe(steps=4, cfg=1.0, sigma_shift=5.0, solver=SolverName.EULER)
SHAPE = PixelShape(pixel_frames=13, height=32, width=48)
VAE_21 = {
    "patch": 1,
    "residual": False,
    "dim_mult": (1, 2, 2, 2),
    "temporal_downsample": (False, True, True),
}


class OurLevels(diffusers.FlowMatchEulerDiscreteScheduler):
    """diffusers' Euler on our noise levels: its own default ends at 1/1000 instead of 0."""

    def set_timesteps(self, steps, device=None):
        self.set_shift(1.0)
        super().set_timesteps(sigmas=list(make_sigmas(steps, sigma_shift=5.0)[:-1]), device=device)


def pipeline(vae, **parts):
    made = diffusers.WanImageToVideoPipeline(
        tokenizer=None, text_encoder=None, vae=vae, scheduler=OurLevels(), **parts
    )
    made.set_progress_bar_config(disable=True)
    return made


def draw(*size, seed):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def picture():
    return draw(SHAPE.height, SHAPE.width, 3, seed=3).sigmoid()


def run_pipeline(made, picture, text, *, shape=SHAPE, seed=5, cfg=1.0, output="latent"):
    vae = made.vae.config
    latents = draw(
        1,
        vae.z_dim,
        (shape.pixel_frames - 1) // 4 + 1,
        shape.height // vae.scale_factor_spatial,
        shape.width // vae.scale_factor_spatial,
        seed=seed,
    )
    with torch.inference_mode():
        return made(
            image=rearrange(picture, "h w c -> 1 c h w"),
            height=shape.height,
            width=shape.width,
            num_frames=shape.pixel_frames,
            num_inference_steps=4,
            guidance_scale=cfg,
            latents=latents,
            prompt_embeds=text[0],
            negative_prompt_embeds=text[1],
            output_type=output,
        ).frames


@pytest.fixture
def text():
    """Two prompts, at the full text length: the pipeline leaves padding to its text encoder."""
    return draw(1, 12, 16, seed=8), draw(1, 12, 16, seed=9)


@pytest.mark.parametrize("cfg", [1.0, 3.5])
def test_stage_one_with_two_experts_is_the_pipeline(picture, text, cfg):
    """I2V-A14B's way: mask channels, high expert for 1000 and 937.5, low for 833.3 and 625."""
    vae = small_vae(**VAE_21)
    high, low = (fill_(small_dit(in_channels=20, layers=2), seed=seed).eval() for seed in (11, 12))
    models = small_models(
        motion_high=slot(high.config, high),
        motion_low=slot(low.config, low),
        motion_vae=slot(vae.config, vae),
    )
    recipe = Recipe(steps=4, cfg=cfg, sigma_shift=5.0, solver=SolverName.EULER)
    settings = MotionSettings(shape=SHAPE, recipe=recipe, seed=5)
    prompt = PromptEmbeddings(positive=text[0], negative=text[1])
    clip = make_motion(models, picture, prompt, settings, runtime=RUNTIME)

    made = pipeline(
        oracle_vae(vae),
        transformer=oracle_dit(high),
        transformer_2=oracle_dit(low),
        boundary_ratio=0.9,
    )
    expected = run_pipeline(made, picture, text, cfg=cfg, output="pt")[0]
    torch.testing.assert_close(clip, rearrange(expected, "p c h w -> p h w c"), **CLOSE)
    # Both experts matter: one alone gives another clip.
    alone = pipeline(oracle_vae(vae), transformer=oracle_dit(high))
    other = rearrange(
        run_pipeline(alone, picture, text, cfg=cfg, output="pt")[0], "p c h w -> p h w c"
    )
    assert (clip - other).abs().max() > 50 * CLOSE["atol"]


def test_stage_one_with_a_clean_first_frame_is_the_pipeline(picture, text):
    """TI2V-5B's way: frame 0 clean at timestep 0."""
    vae, dit = small_vae(), small_dit()
    models = small_models(
        motion_high=slot(dit.config, dit), motion_low=None, motion_vae=slot(vae.config, vae)
    )
    settings = MotionSettings(shape=SHAPE, recipe=FOUR_STEPS, seed=5)
    prompt = PromptEmbeddings(positive=text[0], negative=None)
    clip = make_motion(models, picture, prompt, settings, runtime=RUNTIME)
    made = pipeline(oracle_vae(vae), transformer=oracle_dit(dit), expand_timesteps=True)
    expected = run_pipeline(made, picture, text, output="pt")[0]
    torch.testing.assert_close(clip, rearrange(expected, "p c h w -> p h w c"), **CLOSE)


def test_stage_two_of_one_segment_from_pure_noise_is_the_pipeline(picture, text):
    """Without reference channels, and with one segment over the clip, Stage II is plain TI2V."""
    vae, dit = small_vae(), small_dit()
    oracle = oracle_vae(vae)
    made = pipeline(oracle, transformer=oracle_dit(dit), expand_timesteps=True)
    expected = run_pipeline(made, picture, text)

    pixels = rearrange(picture, "h w c -> 1 c 1 h w") * 2 - 1
    reference = draw(1, 8, 4, 4, 6, seed=1)
    reference[:, :, :1] = vae.encode(pixels)
    settings = RefineSettings(
        plan=plan_segments(4, SegmentSettings(segment_length=3)),
        recipe=FOUR_STEPS,
        seed=5,
        reference_strength=0.0,
    )
    prompt = read_prompt(dit, PromptEmbeddings(positive=text[0], negative=None), FOUR_STEPS)
    latent = refine(dit, reference, prompt, settings, runtime=RUNTIME)
    torch.testing.assert_close(latent, expected, **CLOSE)


def test_the_noise_is_comfyuis():
    """A seed means what it means in ComfyUI: one draw of the whole clip, on the CPU, in fp32."""
    from swift_core.geometry import LatentShape

    shape = LatentShape(channels=8, latent_frames=4, height=4, width=6)
    ours = ClipNoise(seed=5, shape=shape).start(range(4))
    assert torch.equal(ours, torch.randn(1, 8, 4, 4, 6, generator=torch.manual_seed(5)))


def test_small_vae_is_the_published_form():
    assert SMALL_VAE.compression.space == 8
