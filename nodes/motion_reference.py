"""MotionReference360P: Stage I, the small clip that decides how things move."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..swift_core.errors import CheckpointError
from ..swift_core.geometry import PixelShape, check_output_size, latent_frames_of
from ..swift_core.memory.working import Step
from ..swift_core.precision import FP32
from ..swift_core.progress import Phase
from ..swift_core.stages.motion import MotionSettings, make_motion
from ..swift_core.vae.memory import plan_decode
from .host.conditioning import prompt_embeddings
from .host.core_stages import make_core_motion
from .host.guided import Guidance
from .host.memory import check_whole, make_runtime
from .host.previews import make_own_previewer, make_previewer
from .host.progress import NodeProgress
from .host.vae import (
    beside_weights,
    budget_of,
    saying_what_helps,
    vae_runtime,
    weights_nbytes,
)
from .schema import make_schema
from .settings import first_picture, make_recipe, picture_input, sampling_inputs, side_input
from .types import CoreMotionModel, MotionModelType, OwnMotionModel


class MotionReference360P(io.ComfyNode):
    """Make the motion clip from a picture and a prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return make_schema(
            node_id="MotionReference360P",
            display_name="Motion Reference 360P",
            description=(
                "Stage I: a small clip of your picture that decides how things move. Look at it, "
                "change the seed until it moves well, or replace it by any clip of your own, "
                "before Stage II makes it large."
            ),
            search_aliases=["swifti2v stage 1", "image to video", "wan i2v", "motion clip"],
            inputs=[
                io.MultiType.Input(
                    "motion_model",
                    types=[MotionModelType, io.Model],
                    tooltip=(
                        "Load SwiftI2V Models' motion_model, or any core MODEL: Wan2.2-I2V-A14B "
                        "high noise (with its LoRA), or TI2V-5B."
                    ),
                ),
                picture_input(),
                io.Conditioning.Input(
                    "positive", tooltip="What happens: CLIP Text Encode of your prompt."
                ),
                side_input(
                    "width",
                    default=640,
                    tooltip=(
                        "Width of the clip. A quarter of the final video: 640 for 2560, 128 for "
                        "swift-tiny's 512. A multiple of 16, or of 32 with TI2V-5B."
                    ),
                ),
                side_input(
                    "height",
                    default=352,
                    tooltip=(
                        "Height of the clip. A quarter of the final video: 352 for 1408, 80 for "
                        "swift-tiny's 320. The picture is cropped to this shape."
                    ),
                ),
                io.Int.Input(
                    "pixel_frames",
                    default=81,
                    min=5,
                    max=10001,
                    step=4,
                    tooltip=(
                        "Frames of the video, 4n+1. 81 are 5 seconds at 16 frames per second, 49 "
                        "are 3."
                    ),
                ),
                *sampling_inputs(),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="What to keep away from; used where cfg is not 1.",
                ),
                io.Model.Input(
                    "motion_model_low",
                    optional=True,
                    tooltip=(
                        "With a core MODEL: Wan2.2-I2V-A14B low noise, the second expert. It takes "
                        "over below noise level 0.9."
                    ),
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip=(
                        "With a core MODEL: its VAE, wan_2.1_vae for A14B, wan2.2_vae for TI2V-5B."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(
                    "motion", display_name="motion", tooltip="The clip, as an IMAGE batch."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        motion_model: Any,
        image: Any,
        positive: Any,
        width: int,
        height: int,
        pixel_frames: int,
        seed: int,
        negative: Any = None,
        motion_model_low: Any = None,
        vae: Any = None,
        **recipe: Any,
    ) -> io.NodeOutput:
        """Run Stage I."""
        settings = MotionSettings(
            shape=PixelShape(pixel_frames=pixel_frames, height=height, width=width),
            recipe=make_recipe(**recipe),
            seed=seed,
        )
        picture = first_picture(image)
        guidance = Guidance(positive=positive, negative=negative, cfg=settings.recipe.cfg)
        _check_alone(motion_model, motion_model_low, vae)
        if isinstance(motion_model, OwnMotionModel):
            clip = _own(motion_model, picture, guidance, settings)
        else:
            models = _core_models(motion_model, motion_model_low, vae)
            clip = _core(models, picture, guidance, settings)
        return io.NodeOutput(clip)


def _check_alone(model: Any, low: Any, vae: Any) -> None:
    """Refuse what is connected beside a motion model of our loader, which has it all."""
    of_loader = isinstance(model, (OwnMotionModel, CoreMotionModel))
    if of_loader and (low is not None or vae is not None):
        raise CheckpointError(
            "motion_model brings its own VAE and experts: disconnect motion_model_low and vae, or "
            "connect a core MODEL."
        )


def _own(models: OwnMotionModel, picture: Any, guidance: Guidance, settings: MotionSettings) -> Any:
    check_output_size(
        settings.shape.height,
        settings.shape.width,
        multiple=models.motion_vae.config.compression.space * models.motion_high.config.patch.width,
    )
    budget, room = models.budget_nbytes, _room(models, settings)
    previewer = make_own_previewer(lambda: models.motion_vae.load(FP32))
    observe = NodeProgress(_units(settings), previewer)
    runtime = make_runtime(FP32, observe, most_nbytes=room)
    text_dim = models.motion_high.config.text_dim
    prompt = prompt_embeddings(
        guidance.positive, guidance.negative, text_dim=text_dim, runtime=runtime
    )
    with saying_what_helps(budget):
        return make_motion(models, picture, prompt, settings, runtime=runtime)


def _room(models: OwnMotionModel, settings: MotionSettings) -> int | None:
    """Refuse what the memory budget does not allow, and give its share for the VAE's work."""
    budget = models.budget_nbytes
    if budget is None:
        return None
    shape, vae = settings.shape, models.motion_vae.config
    window = shape.latent(vae.compression, channels=vae.latent_channels)
    step = Step(window=window, prompts=settings.recipe.prompts)
    check_whole(models.motion_high.config, step, precision=FP32, budget_nbytes=budget)
    room = beside_weights(budget, weights_nbytes(vae, FP32.weights))
    with saying_what_helps(budget):
        plan_decode(vae, shape, compute=FP32.compute, budget_nbytes=room)
    return room


def _core(
    models: CoreMotionModel, picture: Any, guidance: Guidance, settings: MotionSettings
) -> Any:
    observe = NodeProgress(_units(settings), make_previewer(models.vae))
    runtime = vae_runtime(models.vae, observe)
    with saying_what_helps(budget_of(models.vae)):
        return make_core_motion(models, picture, guidance, settings, runtime=runtime)


def _core_models(model: Any, low: Any, vae: Any) -> CoreMotionModel:
    if model is None:
        raise CheckpointError(
            "there is no Stage I model: choose motion_high in Load SwiftI2V Models, or its bundled "
            "set."
        )
    if isinstance(model, CoreMotionModel):
        return model
    if vae is None:
        raise CheckpointError(
            "a core MODEL in motion_model needs its VAE: connect VAELoader with wan_2.1_vae (for "
            "A14B) or wan2.2_vae (for TI2V-5B) to vae."
        )
    return CoreMotionModel(high=model, low=low, vae=vae)


def _units(settings: MotionSettings) -> dict[Phase, int]:
    """Count what Stage I reports; encoding the picture is up to one unit per latent frame."""
    latent_frames = latent_frames_of(settings.shape.pixel_frames)
    return {
        Phase.MOTION_CONDITION: latent_frames,
        Phase.MOTION: settings.recipe.steps,
        Phase.MOTION_DECODE: latent_frames,
    }
