"""Stage I: the picture and the prompt become a small clip that decides how things move.

Two kinds of DiT can do it. One with as many input as output channels (TI2V-5B) keeps latent
frame 0 clean at timestep 0: it is a clip of one segment. One with mask channels (I2V-A14B)
samples every frame and is shown, beside the noise, a mask of what is given and the encoding of
the picture followed by nothing; it comes as two experts, one for each end of the schedule.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from ..flow.guidance import guide
from ..flow.noise import ClipNoise
from ..flow.recipe import Recipe
from ..flow.sigmas import make_sigmas
from ..flow.solvers import Velocity, sample
from ..geometry import LatentShape, PixelShape
from ..media.pictures import fit_picture
from ..memory.streaming import run_steadily
from ..model.dit import PromptKeys
from ..progress import Observer, Phase, Progress
from ..segments.denoiser import Denoiser, SegmentContext
from ..segments.plan import SegmentSettings, plan_segments
from ..segments.sampler import SegmentSampling, sample_segments
from ..shapes import Float, Tensor
from ..vae.autoencoder import WanVAE
from .experts import Experts, MotionModels
from .pixels import decode_clip, encode_clip, to_pixels
from .prompt import PromptEmbeddings
from .refine import make_denoiser
from .runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class MotionSettings:
    """How Stage I samples.

    Attributes:
        shape: of the clip.
        recipe: steps, guidance, shift and solver.
        seed: of the clip's noise.
    """

    shape: PixelShape
    recipe: Recipe
    seed: int

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Give the schedule."""
        return make_sigmas(self.recipe.steps, sigma_shift=self.recipe.sigma_shift)


def make_motion(
    models: MotionModels,
    picture: Float[Tensor, "height width 3"],
    prompt: PromptEmbeddings,
    settings: MotionSettings,
    *,
    runtime: Runtime,
) -> Float[Tensor, "p h w 3"]:
    """Make the motion clip.

    Args:
        picture: of any size; cropped to the clip's shape.

    Returns:
        The clip in [0, 1]: it may be looked at, kept, or replaced by any other of that length.

    Source: SwiftI2V, arXiv 2605.06356, Stage I. Oracle: diffusers' WanImageToVideoPipeline,
    tests/oracle/test_stages.py.
    """
    shape = settings.shape
    first = fit_picture(picture, height=shape.height, width=shape.width).unsqueeze(0)
    vae = models.motion_vae
    latent_shape = shape.latent(vae.config.compression, channels=vae.config.latent_channels)
    config = models.motion_high.config
    is_anchored = config.in_channels == config.out_channels
    given = encode_first(
        runtime.load(vae),
        first,
        shape=replace(shape, pixel_frames=1) if is_anchored else shape,
        runtime=runtime,
    )
    sample_clip = _sample_own_anchored if is_anchored else _sample_masked
    experts = Experts(models, prompt, settings.recipe, window=latent_shape, runtime=runtime)
    latent = sample_clip(experts, given, latent_shape, settings, runtime)
    experts.let_go()
    return decode_motion(runtime.load(vae), latent, shape, runtime)


def decode_motion(
    vae: WanVAE, latent: Float[Tensor, "1 c t i j"], shape: PixelShape, runtime: Runtime
) -> Float[Tensor, "p h w 3"]:
    """Decode the whole clip, into memory allocated once."""
    clip = torch.empty((shape.pixel_frames, shape.height, shape.width, 3))
    filled = 0
    for chunk in decode_clip(vae, latent, phase=Phase.MOTION_DECODE, runtime=runtime):
        clip[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    return clip


def encode_first(
    vae: WanVAE, first: Float[Tensor, "1 h w 3"], *, shape: PixelShape, runtime: Runtime
) -> Float[Tensor, "1 c t i j"]:
    """Encode the picture as frame 0, followed by middle grey up to the clip's length."""
    pixels = to_pixels(first, runtime)
    grey = torch.zeros_like(pixels).repeat(1, 1, vae.config.compression.time, 1, 1)

    def chunks() -> Iterator[Float[Tensor, "1 3 p h w"]]:
        yield pixels
        for _ in range(1, shape.pixel_frames, vae.config.compression.time):
            yield grey

    return encode_clip(
        vae,
        chunks,
        shape=shape,
        phase=Phase.MOTION_CONDITION,
        runtime=runtime,
    )


@dataclass(frozen=True, kw_only=True)
class _ExpertDenoiser:
    """The experts behind the sampler's protocol."""

    experts: Experts
    runtime: Runtime

    def open(self, context: SegmentContext) -> Velocity:
        """Ask, at each noise level, the expert for it."""

        def velocity(targets: Tensor, sigma: float) -> Tensor:
            dit, prompt = self.experts.at(sigma)
            return make_denoiser(dit, prompt, self.runtime).open(context)(targets, sigma)

        return velocity


def _sample_own_anchored(
    experts: Experts,
    anchor: Float[Tensor, "1 c 1 h w"],
    shape: LatentShape,
    settings: MotionSettings,
    runtime: Runtime,
) -> Float[Tensor, "1 c t h w"]:
    denoiser = _ExpertDenoiser(experts=experts, runtime=runtime)
    return sample_anchored(
        denoiser, anchor, shape, settings, device=runtime.device, observe=runtime.observe
    )


def sample_anchored(
    denoiser: Denoiser,
    anchor: Float[Tensor, "1 c 1 h w"],
    shape: LatentShape,
    settings: MotionSettings,
    *,
    device: torch.device,
    observe: Observer,
) -> Float[Tensor, "1 c t h w"]:
    """Sample with frame 0 clean: one segment over the whole clip, from pure noise."""
    reference = anchor.new_zeros((1, shape.channels, shape.latent_frames, *anchor.shape[3:]))
    reference[:, :, :1] = anchor
    whole = SegmentSettings(segment_length=max(1, shape.latent_frames - 1), neighbors=0)
    return sample_segments(
        denoiser,
        reference,
        plan_segments(shape.latent_frames, whole),
        SegmentSampling(
            sigmas=settings.sigmas,
            solver=settings.recipe.solver,
            seed=settings.seed,
            device=device,
        ),
        phase=Phase.MOTION,
        observe=observe,
    )


def _sample_masked(
    experts: Experts,
    given: Float[Tensor, "1 c t h w"],
    shape: LatentShape,
    settings: MotionSettings,
    runtime: Runtime,
) -> Float[Tensor, "1 c t h w"]:
    """Sample every frame, shown a mask (1 = given) and what is given."""
    frames = range(shape.latent_frames)
    noise = ClipNoise(seed=settings.seed, shape=shape)
    mask_channels = experts.config.in_channels - 2 * shape.channels
    mask = given.new_zeros((1, mask_channels, *given.shape[2:]))
    mask[:, :, 0] = 1
    condition = torch.cat((mask, given), dim=1).to(runtime.device)

    def velocity(latent: Tensor, sigma: float) -> Tensor:
        dit, prompt = experts.at(sigma)
        shown = runtime.place(torch.cat((latent, condition), dim=1))
        timestep = torch.full((1, shape.latent_frames), 1000 * sigma)

        def ask(keys: PromptKeys) -> Tensor:
            return run_steadily(dit, lambda: dit(shown, timestep, keys, positions=frames))

        positive = ask(prompt.positive)
        if prompt.negative is None:
            return positive
        return guide(positive, ask(prompt.negative), cfg=prompt.cfg)

    def on_step(step: int, clean: Tensor) -> None:
        runtime.observe(
            Progress(phase=Phase.MOTION, step=step, steps=settings.recipe.steps, preview=clean)
        )

    return sample(
        settings.recipe.solver,
        velocity,
        noise.start(frames).to(runtime.device),
        settings.sigmas,
        fresh_noise=lambda step: noise.fresh(frames, step=step).to(runtime.device),
        on_step=on_step,
    )
