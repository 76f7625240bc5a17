"""CSG2KSampler: Stage II, the motion clip becomes a 2K video, segment by segment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy_api.latest import io, ui

from ..swift_core.errors import CheckpointError
from ..swift_core.flow.recipe import Recipe
from ..swift_core.geometry import MOTION_SCALE, OUTPUT_MULTIPLE, PixelShape, nearest_multiple
from ..swift_core.media.sources import ClipInMemory
from ..swift_core.memory.working import Step
from ..swift_core.precision import FP32
from ..swift_core.progress import Observer, Phase
from ..swift_core.segments.plan import SegmentSettings
from ..swift_core.segments.sampler import Finished, check_segment_seeds
from ..swift_core.stages.plan import GenerationPlan, plan_generation
from ..swift_core.stages.prompt import read_prompt
from ..swift_core.stages.reference import build_reference, check_motion
from ..swift_core.stages.refine import RefineSettings, refine
from ..swift_core.stages.work import PlannedModels
from ..swift_core.tracking.carry import check_carry
from .host.conditioning import prompt_embeddings
from .host.core_stages import check_detail_model, refine_with_model
from .host.guided import Guidance
from .host.latents import to_latent
from .host.memory import check_whole, make_runtime
from .host.plans import describe_taken, plan_with_vae, stage2_models
from .host.previews import make_previewer
from .host.progress import NodeProgress
from .host.resume import finished_of, open_store
from .host.vae import (
    budget_of,
    encode_memory,
    open_vae,
    saying_what_helps,
    vae_config,
    vae_runtime,
)
from .schema import advanced, make_schema
from .settings import (
    colours,
    first_picture,
    make_recipe,
    picture_input,
    read_segment_seeds,
    sampling_inputs,
    side_input,
)
from .types import DetailModelType, OwnDetailModel, SegmentsType

AUTOMATIC = -1.0
"""A share that leaves the choice to the models."""

SHORTEST = 5


class CSG2KSampler(io.ComfyNode):
    """Sample the video's latent, strongly conditioned on the picture and the motion clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return make_schema(
            node_id="CSG2KSampler",
            display_name="CSG 2K Sampler",
            description=(
                "Stage II: makes the motion clip large, segment by segment. Every segment sees "
                "your picture, the motion clip and what is finished before it, so memory does not "
                "grow with the length of the video."
            ),
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            search_aliases=["swifti2v stage 2", "2k video", "video upscale", "segment sampler"],
            inputs=[
                io.MultiType.Input(
                    "detail_model",
                    types=[DetailModelType, io.Model],
                    tooltip=(
                        "Load SwiftI2V Models' detail_model, or any core MODEL of Wan2.2-TI2V-5B, "
                        "with 48 or 96 input channels: LoRAs, GGUF and patches included."
                    ),
                ),
                io.Vae.Input("vae", tooltip="Stage II's VAE: wan2.2_vae, or swift-tiny's own."),
                picture_input(),
                io.Image.Input(
                    "motion",
                    tooltip=(
                        "How things move: Motion Reference 360P, or any clip of 4n+1 frames. Its "
                        "length is the video's."
                    ),
                ),
                io.Conditioning.Input(
                    "positive", tooltip="What happens: the prompt of the motion clip will do."
                ),
                side_input(
                    "width",
                    default=2560,
                    tooltip=(
                        "Width of the video, a multiple of 64. 0 takes four times the motion clip."
                    ),
                    least=0,
                    step=64,
                ),
                side_input(
                    "height",
                    default=1408,
                    tooltip=(
                        "Height of the video, a multiple of 64. 0 takes four times the motion clip."
                    ),
                    least=0,
                    step=64,
                ),
                *sampling_inputs(),
                SegmentsType.Input(
                    "segments",
                    optional=True,
                    tooltip="Segment Overlap Config. Without it: 3 latent frames, 1 neighbor.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="What to keep away from; used where cfg is not 1.",
                ),
                advanced(
                    io.Float.Input(
                        "reference_strength",
                        default=AUTOMATIC,
                        min=AUTOMATIC,
                        max=0.99,
                        step=0.01,
                        round=0.01,
                        tooltip=(
                            "Share of the enlarged motion clip that sampling starts from. -1 "
                            "chooses: 0 for models with 96 channels, which see the clip anyway, "
                            "0.5 for those with 48. More keeps closer to the clip, less adds more "
                            "detail."
                        ),
                    )
                ),
                advanced(
                    io.String.Input(
                        "segment_seeds",
                        default="",
                        tooltip=(
                            "Seeds of their own for some segments, to roll again what went wrong: "
                            '"2:77, 4:5" gives segment 2 the seed 77 and segment 4 the seed 5. '
                            "Counted from 0. With resume on, those before the first of them "
                            "are not sampled again."
                        ),
                    )
                ),
                advanced(
                    io.Boolean.Input(
                        "resume",
                        default=True,
                        tooltip=(
                            "Keep segments on disk as they are finished. After Cancel, a crash or "
                            "a decode that failed the same run goes on where it was; with any "
                            "other picture or setting but segment_seeds it begins anew."
                        ),
                    )
                ),
                advanced(
                    io.Float.Input(
                        "carry_detail",
                        default=AUTOMATIC,
                        min=AUTOMATIC,
                        max=1.0,
                        step=0.05,
                        round=0.01,
                        tooltip=(
                            "Share of the picture's own detail that is carried along the motion "
                            "into the enlarged clip, wherever the clip shows the same. 0 is none, "
                            "1 all of it. -1 does as the models want: what their set says, 0 for "
                            "a core MODEL. Worth a try from 0.5 to 1 with 48 channels."
                        ),
                    )
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "latent",
                    display_name="latent",
                    tooltip="For SwiftI2V VAE Decode, or core's VAE Decode.",
                ),
                io.String.Output("report", display_name="plan", tooltip="What was done, in words."),
            ],
        )

    @classmethod
    def execute(
        cls,
        detail_model: Any,
        vae: Any,
        image: Any,
        motion: Any,
        positive: Any,
        width: int,
        height: int,
        seed: int,
        segments: SegmentSettings | None = None,
        negative: Any = None,
        reference_strength: float = AUTOMATIC,
        segment_seeds: str = "",
        resume: bool = True,
        carry_detail: float = AUTOMATIC,
        **recipe: Any,
    ) -> io.NodeOutput:
        """Run Stage II."""
        made = make_recipe(**recipe)
        carry = _carry(detail_model, carry_detail)
        output = _output_shape(motion, width, height)
        check_motion(ClipInMemory(motion).shape, output)
        models = stage2_models(detail_model, vae)
        plan = _plan(models, output, segments, made)
        settings = RefineSettings(
            plan=plan.segments,
            recipe=made,
            seed=seed,
            segment_seeds=read_segment_seeds(segment_seeds),
            reference_strength=None if reference_strength < 0 else reference_strength,
        )
        check_segment_seeds(plan.segments, settings.segment_seeds)
        guidance = Guidance(positive=positive, negative=negative, cfg=made.cfg)
        observe = NodeProgress(_units(plan, made), make_previewer(vae))
        sample = _prepare(detail_model, vae, guidance, settings, plan.detail_step, observe)
        whole = plan_with_vae(models, plan, vae)  # refuses what could not be decoded either
        observe.start()
        reference = _reference(vae, image, motion, plan, carry, observe)
        observe.lap(Phase.REFERENCE)
        store = None
        if resume:
            hidden, seeds = cls.hidden, settings.segment_seeds
            store = open_store(hidden.dynprompt, hidden.unique_id, (image[:1], motion), seeds)
        finished = finished_of(store, plan.segments, reference)
        latent = sample(reference, finished)
        observe.lap(Phase.REFINE)
        resumed = len(finished.targets)
        taken = describe_taken(plan, observe.seconds, carry=carry, resumed=resumed)
        words = f"{whole.describe()}\n{taken}"
        return io.NodeOutput(to_latent(latent, vae), words, ui=ui.PreviewText(words))


def _units(plan: GenerationPlan, recipe: Recipe) -> dict[Phase, int]:
    """Count what Stage II reports."""
    return {
        Phase.REFERENCE: plan.latent.latent_frames,
        Phase.REFINE: len(plan.segments.segments) * recipe.steps,
    }


def _carry(detail_model: Any, asked: float) -> float:
    """Give the share of detail to carry: what is asked for, or what the model's set wants."""
    of_set = detail_model.carry if isinstance(detail_model, OwnDetailModel) else 0.0
    carry = of_set if asked < 0 else asked
    check_carry(carry)
    return carry


def _reference(
    vae: Any, image: Any, motion: Any, plan: GenerationPlan, carry: float, observe: Observer
) -> Any:
    with saying_what_helps(budget_of(vae)):
        return build_reference(
            open_vae(vae, memory_required=encode_memory(vae, plan.output)),
            first_picture(image),
            colours(motion),
            output=plan.output,
            carry=carry,
            runtime=vae_runtime(vae, observe),
        )


def _prepare(
    detail_model: Any,
    vae: Any,
    guidance: Guidance,
    settings: RefineSettings,
    step: Step,
    observe: Observer,
) -> Callable[[Any, Finished], Any]:
    """Refuse what cannot be sampled, and give what samples, from the reference on."""
    runtime = make_runtime(FP32, observe)
    channels = vae_config(vae).latent_channels
    if not isinstance(detail_model, OwnDetailModel):
        check_detail_model(detail_model, channels, settings.plan.settings.interaction)

        def sample_core(reference: Any, finished: Finished) -> Any:
            return refine_with_model(
                detail_model, reference, guidance, settings, finished=finished, runtime=runtime
            )

        return sample_core
    slot = detail_model.slot
    if slot.config.out_channels != channels:
        raise CheckpointError(
            f"detail_model makes latents of {slot.config.out_channels} channels, the VAE "
            f"{channels}: connect the vae that LoadSwiftModels gives beside it."
        )
    check_whole(slot.config, step, precision=FP32, budget_nbytes=detail_model.budget_nbytes)
    prompt = prompt_embeddings(
        guidance.positive, guidance.negative, text_dim=slot.config.text_dim, runtime=runtime
    )

    def sample_own(reference: Any, finished: Finished) -> Any:
        dit = slot.load(FP32)
        keys = read_prompt(dit, prompt, settings.recipe)
        return refine(dit, reference, keys, settings, finished=finished, runtime=runtime)

    return sample_own


def _output_shape(motion: Any, width: int, height: int) -> PixelShape:
    """Give the video's size; 0 is four times the clip's, to the nearest multiple of 64.

    The length is the clip's, or, where no video can have that, the next below: clips can be cut.
    """
    frames, motion_height, motion_width = motion.shape[:3]

    def side(asked: int, of_motion: int) -> int:
        return asked or nearest_multiple(MOTION_SCALE * of_motion, OUTPUT_MULTIPLE)

    return PixelShape(
        pixel_frames=max(SHORTEST, frames - (frames - 1) % 4),
        height=side(height, motion_height),
        width=side(width, motion_width),
    )


def _plan(
    models: PlannedModels, output: PixelShape, segments: SegmentSettings | None, recipe: Recipe
) -> GenerationPlan:
    """Plan Stage II, or refuse it, before any weight is moved."""
    return plan_generation(
        output,
        segments or SegmentSettings(),
        models=models,
        motion_recipe=recipe,
        detail_recipe=recipe,
        has_motion=True,
    )
