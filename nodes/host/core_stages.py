"""Both stages with models of ComfyUI's, for what ``stages`` does with our own."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import comfy.model_base
import torch

from ...swift_core.errors import CheckpointError, SegmentError
from ...swift_core.flow.noise import ClipNoise
from ...swift_core.flow.solvers import sample
from ...swift_core.geometry import LatentShape, check_output_size
from ...swift_core.media.pictures import fit_picture
from ...swift_core.model.config import DiTConfig
from ...swift_core.progress import Phase, Progress
from ...swift_core.segments.plan import Interaction
from ...swift_core.segments.sampler import Finished, sample_segments
from ...swift_core.shapes import Float, Tensor
from ...swift_core.stages.motion import (
    MotionSettings,
    decode_motion,
    encode_first,
    sample_anchored,
)
from ...swift_core.stages.refine import RefineSettings
from ...swift_core.stages.runtime import Runtime
from ...swift_core.weights.set_file import DEFAULT_BOUNDARY
from ..types import CoreMotionModel
from .guided import Guidance, ModelDenoiser, PreparedModel, Shown, model_config, with_model
from .vae import decode_memory, encode_memory, open_vae, vae_config


def make_core_motion(
    models: CoreMotionModel,
    picture: Float[Tensor, "height width 3"],
    guidance: Guidance,
    settings: MotionSettings,
    *,
    runtime: Runtime,
) -> Float[Tensor, "p h w 3"]:
    """Make the motion clip with one MODEL or two experts.

    Args:
        runtime: the VAE's.

    Raises:
        CheckpointError: if models and VAE do not belong together.
        GeometryError: if they cannot make that size.
        BudgetError: if there is too little memory for the VAE.
    """
    shape = settings.shape
    config, latents = model_config(models.high), vae_config(models.vae)
    channels = latents.latent_channels
    is_anchored = config.in_channels == channels
    # Only what ComfyUI takes for a Wan2.2 model of 48 channels reads a noise level per frame.
    reads_pictures = config.in_channels == 2 * channels + 4 or (
        is_anchored and isinstance(models.high.model, comfy.model_base.WAN22)
    )
    if config.out_channels != channels or not reads_pictures:
        raise CheckpointError(
            f"Stage I's MODEL takes {config.in_channels} channels and makes latents of "
            f"{config.out_channels}, the VAE makes {channels}: connect Wan2.2-I2V-A14B with "
            "wan_2.1_vae, or TI2V-5B with wan2.2_vae."
        )
    if models.low is not None and _channels(models.low) != _channels(models.high):
        raise CheckpointError(
            f"motion_model_low takes {_channels(models.low)[0]} channels, motion_model "
            f"{config.in_channels}: connect the two experts of one model, or only motion_model."
        )
    space = latents.compression.space
    check_output_size(shape.height, shape.width, multiple=space * config.patch.width)
    latent_shape = shape.latent(latents.compression, channels=channels)
    decoding = decode_memory(models.vae, shape)  # refuses, if it must, before anything is sampled
    first = fit_picture(picture, height=shape.height, width=shape.width).unsqueeze(0)
    given = encode_first(
        open_vae(models.vae, memory_required=encode_memory(models.vae, shape)),
        first,
        shape=replace(shape, pixel_frames=1) if is_anchored else shape,
        runtime=runtime,
    )
    sample_clip = _sample_anchored if is_anchored else _sample_masked
    latent = sample_clip(models, guidance, given, latent_shape, settings, runtime)
    vae = open_vae(models.vae, memory_required=decoding)
    return decode_motion(vae, latent, shape, replace(runtime, is_under_way=True))


def _channels(model: Any) -> tuple[int, int]:
    config = model_config(model)
    return config.in_channels, config.out_channels


def _window(shape: LatentShape, latent_frames: int) -> tuple[int, ...]:
    return (1, shape.channels, latent_frames, shape.height, shape.width)


def _sample_anchored(
    models: CoreMotionModel,
    guidance: Guidance,
    given: Float[Tensor, "1 c 1 h w"],
    shape: LatentShape,
    settings: MotionSettings,
    runtime: Runtime,
) -> Float[Tensor, "1 c t h w"]:
    """Sample with frame 0 clean at timestep 0 (TI2V-5B)."""

    def body(model: PreparedModel) -> Tensor:
        return sample_anchored(
            ModelDenoiser(model=model),
            given,
            shape,
            settings,
            device=model.device,
            observe=runtime.observe,
        )

    return with_model(
        models.high,
        guidance,
        body,
        window=_window(shape, shape.latent_frames),
        sigmas=settings.sigmas,
        seed=settings.seed,
    )


def _sample_masked(
    models: CoreMotionModel,
    guidance: Guidance,
    given: Float[Tensor, "1 c t h w"],
    shape: LatentShape,
    settings: MotionSettings,
    runtime: Runtime,
) -> Float[Tensor, "1 c t h w"]:
    """Sample every frame, shown a mask and the picture (A14B), each expert its own steps."""
    frames = range(shape.latent_frames)
    noise = ClipNoise(seed=settings.seed, shape=shape)
    targets = torch.ones(shape.latent_frames)
    targets[0] = 0
    answers: list[Tensor] = []

    def walk(model: PreparedModel, *, until: int) -> Tensor:
        """Walk from the start of the schedule; what the other expert has answered stands.

        So a solver that looks back at earlier steps does not notice the change.
        """
        shown = Shown(targets=targets, latent=given.to(model.device), is_masked=True)
        ask, before = model.open(shown, frames), len(answers)
        known = iter(tuple(answers))

        def velocity(latent: Tensor, sigma: float) -> Tensor:
            answer = next(known, None)
            if answer is None:
                answer = ask(latent, sigma)
                answers.append(answer)
            return answer.to(model.device)

        def on_step(step: int, clean: Tensor) -> None:
            if step > before:
                runtime.observe(
                    Progress(
                        phase=Phase.MOTION, step=step, steps=settings.recipe.steps, preview=clean
                    )
                )

        return sample(
            settings.recipe.solver,
            velocity,
            noise.start(frames).to(model.device),
            settings.sigmas[: until + 1],
            fresh_noise=lambda step: noise.fresh(frames, step=step).to(model.device),
            on_step=on_step,
        )

    latent, done = noise.start(frames), 0
    for expert, until in _share_out(models, settings.sigmas):
        latent = with_model(
            expert,
            guidance,
            partial(walk, until=until),
            window=_window(shape, shape.latent_frames),
            sigmas=settings.sigmas[done : until + 1],
            seed=settings.seed,
        )
        done = until
    return latent


def _share_out(models: CoreMotionModel, sigmas: tuple[float, ...]) -> list[tuple[Any, int]]:
    """Give the experts in turn, and how many steps are done after each; high alone does all."""
    steps = len(sigmas) - 1
    if models.low is None:
        return [(models.high, steps)]
    high = sum(sigma >= DEFAULT_BOUNDARY for sigma in sigmas)
    turns = [(models.high, high), (models.low, steps)]
    return [turn for turn, worked in zip(turns, (high, steps - high), strict=True) if worked]


def check_detail_model(model: Any, channels: int, interaction: Interaction) -> DiTConfig:
    """Refuse a MODEL that cannot be Stage II, and give its sizes.

    Args:
        channels: of the latents that the VAE makes.

    Raises:
        CheckpointError: if the MODEL does not take such latents.
        SegmentError: if it cannot be sampled so.
    """
    config = model_config(model)
    if (
        not isinstance(model.model, comfy.model_base.WAN22)
        or config.out_channels != channels
        or config.in_channels not in (channels, 2 * channels)
    ):
        raise CheckpointError(
            f"Stage II's MODEL takes {config.in_channels} channels and makes latents of "
            f"{config.out_channels}, the VAE makes {channels}: connect Wan2.2-TI2V-5B, or its form "
            "with 96 input channels, and wan2.2_vae."
        )
    if interaction is Interaction.READ_ONLY:
        raise SegmentError(
            "interaction read-only keeps the keys of the conditions, which a core MODEL does not "
            "give away: use bidirectional, or LoadSwiftModels' detail model."
        )
    return config


def refine_with_model(
    model: Any,
    reference: Float[Tensor, "1 c t h w"],
    guidance: Guidance,
    settings: RefineSettings,
    *,
    finished: Finished,
    runtime: Runtime,
) -> Float[Tensor, "1 c t h w"]:
    """Sample the video's latent segment by segment with a MODEL.

    Args:
        finished: segments that an interrupted run has made already, and who keeps new ones.

    Raises:
        CheckpointError: if the MODEL does not take the reference's latents.
        SegmentError: if it cannot be sampled as the settings want.
    """
    channels = reference.shape[1]
    config = check_detail_model(model, channels, settings.plan.settings.interaction)
    concatenates = config.in_channels == 2 * channels
    sampling = replace(settings.sampling(concatenates_reference=concatenates), finished=finished)

    def body(prepared: PreparedModel) -> Tensor:
        return sample_segments(
            ModelDenoiser(model=prepared),
            reference,
            settings.plan,
            replace(sampling, device=prepared.device),
            phase=Phase.REFINE,
            observe=runtime.observe,
        )

    size = (1, channels, settings.plan.largest, *reference.shape[3:])
    return with_model(
        model, guidance, body, window=size, sigmas=sampling.sigmas, seed=settings.seed
    )
