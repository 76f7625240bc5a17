"""The main path: one picture in, one video out.

``plan -> motion -> reference -> refine -> decode``; the stages take turns, and only the acting
one's models are held. Where memory is ample, the last two go on side by side.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch

from .flow.recipe import Recipe
from .geometry import PixelShape
from .media.sources import as_source
from .memory.read_ahead import ReadingOrder
from .progress import Phase
from .segments.plan import Segment, SegmentSettings
from .segments.sampler import check_segment_seeds
from .shapes import Float, Tensor
from .stages.between import decode_between
from .stages.motion import MotionSettings, make_motion
from .stages.pixels import decode_clip
from .stages.plan import GenerationPlan, plan_generation, planned_models
from .stages.prompt import PromptEmbeddings, encode_prompt, read_prompt
from .stages.reference import Motion, build_reference, check_motion
from .stages.refine import RefineSettings, check_reference_strength, refine_segments
from .stages.run_plan import RunPlan, plan_run
from .stages.runtime import Runtime
from .tracking.carry import check_carry
from .weights.model_set import ModelSet


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """What to make.

    Attributes:
        output: size and length of the video.
        prompt: what happens in it.
        negative: what to keep away from, where guidance is used.
        seed: of all noise.
        segments: how Stage II is cut.
        motion_recipe: how Stage I samples.
        detail_recipe: how Stage II samples.
        carry: share of the picture's detail that is carried along the motion into the reference.
        reference_strength: see ``RefineSettings``.
        segment_seeds: see ``RefineSettings``.
    """

    output: PixelShape
    prompt: str
    negative: str = ""
    seed: int
    segments: SegmentSettings
    motion_recipe: Recipe
    detail_recipe: Recipe
    carry: float = 0.0
    reference_strength: float | None = None
    segment_seeds: Mapping[int, int] = field(default_factory=dict[int, int])

    def __post_init__(self) -> None:
        check_carry(self.carry)
        check_reference_strength(self.reference_strength)


def _keep_nothing(_made: Tensor) -> None:
    """Ignore what was made."""


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Who is handed what a run makes on its way, as soon as it is made.

    Attributes:
        motion: the clip of Stage I, ``"p h w 3"``.
        latent: the video's latent, ``"1 c t h w"``.
    """

    motion: Callable[[Tensor], None] = _keep_nothing
    latent: Callable[[Tensor], None] = _keep_nothing


def plan(
    models: ModelSet, settings: GenerationSettings, *, motion: Motion | None = None
) -> GenerationPlan:
    """Plan a run of these models, or refuse it, before any weight is read.

    Raises:
        GeometryError: if size or length do not work.
        SegmentError: if a segment seed is for no segment.
        MediaError: if a given motion clip is of another length or of quite another shape.
    """
    if motion is not None:
        check_motion(as_source(motion).shape, settings.output)
    made = plan_generation(
        settings.output,
        settings.segments,
        models=planned_models(models),
        motion_recipe=settings.motion_recipe,
        detail_recipe=settings.detail_recipe,
        has_motion=motion is not None,
    )
    check_segment_seeds(made.segments, settings.segment_seeds)
    return made


def generate(
    models: ModelSet,
    picture: Float[Tensor, "height width 3"],
    settings: GenerationSettings,
    *,
    runtime: Runtime,
    motion: Motion | None = None,
    keep: Keep = Keep(),
) -> Iterator[Float[Tensor, "p h w 3"]]:
    """Make a video from a picture.

    The settings are checked at once; the models run as the frames are asked for.

    Args:
        picture: of any size, in [0, 1]; cropped to the output's shape.
        motion: a clip to use in Stage I's place.

    Returns:
        The video's frames in [0, 1], 1 and then 4 at a time, as they are decoded.

    Raises:
        SwiftError: for settings that do not work.
    """
    made = plan(models, settings, motion=motion)
    compute = runtime.precision.compute
    whole = plan_run(planned_models(models), made, runtime.resources(), compute=compute)
    models.text.check()
    order = _reading_order(models, made, runtime)
    runtime = replace(runtime, order=order, is_under_way=True)

    def frames() -> Iterator[Tensor]:
        prompt = _encode_prompt(models, settings, runtime)
        clip = motion
        if clip is None:
            clip = _motion(models, picture, prompt, settings, made, runtime)
            keep.motion(clip)
        latent = _reference(models, picture, clip, settings, runtime)
        del clip
        refining = _refine(models, latent, prompt, settings, whole, runtime)
        if whole.between is not None:
            yield from decode_between(
                models.detail_vae,
                latent,
                refining,
                whole.between,
                keep=keep.latent,
                runtime=runtime,
            )
            return
        deque(refining, maxlen=0)
        keep.latent(latent)
        yield from _decode(models, latent, runtime)

    return _without_gradients(order.beside(frames()))


def _reading_order(models: ModelSet, made: GenerationPlan, runtime: Runtime) -> ReadingOrder:
    """List whose files are wanted when."""
    if not runtime.reads_ahead:
        return ReadingOrder(())
    low = models.motion_low
    motion = () if made.has_motion else (models.motion_vae, models.motion_high, low)
    slots = (models.text, *motion, models.detail_vae, models.detail)
    return ReadingOrder(slot.files for slot in slots if slot is not None)


def _encode_prompt(
    models: ModelSet, settings: GenerationSettings, runtime: Runtime
) -> PromptEmbeddings:
    """Embed the prompts that are used, as long as both stages' models take them."""
    is_guided = settings.motion_recipe.prompts + settings.detail_recipe.prompts > 2
    return encode_prompt(
        models.text,
        settings.prompt,
        settings.negative if is_guided else None,
        max_tokens=min(slot.config.text_tokens for slot in (models.motion_high, models.detail)),
        runtime=runtime,
    )


def _motion(
    models: ModelSet,
    picture: Tensor,
    prompt: PromptEmbeddings,
    settings: GenerationSettings,
    made: GenerationPlan,
    runtime: Runtime,
) -> Tensor:
    """Run Stage I."""
    how = MotionSettings(shape=made.motion, recipe=settings.motion_recipe, seed=settings.seed)
    return make_motion(models, picture, prompt, how, runtime=runtime)


def _reference(
    models: ModelSet,
    picture: Tensor,
    motion: Motion,
    settings: GenerationSettings,
    runtime: Runtime,
) -> Tensor:
    """Load Stage II's VAE, and encode; the VAE is gone before the DiT comes."""
    vae = runtime.load(models.detail_vae)
    return build_reference(
        vae, picture, motion, output=settings.output, carry=settings.carry, runtime=runtime
    )


def _refine(
    models: ModelSet,
    latent: Tensor,
    prompt: PromptEmbeddings,
    settings: GenerationSettings,
    whole: RunPlan,
    runtime: Runtime,
) -> Iterator[Segment]:
    """Load Stage II's DiT, and sample the segments as they are asked for, into the reference."""
    made, between = whole.generation, whole.between
    beside = 0 if between is None else between.nbytes
    dit = runtime.load_dit(models.detail, made.detail_step, beside_nbytes=beside)
    how = RefineSettings(
        plan=made.segments,
        recipe=settings.detail_recipe,
        seed=settings.seed,
        segment_seeds=settings.segment_seeds,
        reference_strength=settings.reference_strength,
    )
    keys = read_prompt(dit, prompt, settings.detail_recipe)
    yield from refine_segments(dit, latent, keys, how, runtime=runtime)
    runtime.let_go(models.detail, dit)


def decode(
    models: ModelSet, latent: Float[Tensor, "1 c t h w"], *, runtime: Runtime
) -> Iterator[Float[Tensor, "p h w 3"]]:
    """Decode a video's latent with Stage II's VAE, as a stream of frames in [0, 1]."""
    return _without_gradients(_decode(models, latent, runtime))


def _decode(models: ModelSet, latent: Tensor, runtime: Runtime) -> Iterator[Tensor]:
    vae = runtime.load(models.detail_vae)
    yield from decode_clip(vae, latent, phase=Phase.DECODE, runtime=runtime)


def _without_gradients(frames: Iterator[Tensor]) -> Iterator[Tensor]:
    """Run a stream in inference mode, and its consumer outside of it."""
    while True:
        with torch.inference_mode():
            chunk = next(frames, None)
        if chunk is None:
            return
        yield chunk
