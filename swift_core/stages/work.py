"""The arithmetic of each stage of a run, from sizes and configurations alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..flow.recipe import Recipe
from ..geometry import LatentShape, PixelShape
from ..model.config import DiTConfig
from ..model.work import dit_flops
from ..segments.plan import Interaction, Segment, SegmentPlan
from ..text.umt5 import UMT5Config
from ..vae.config import VAEConfig
from ..vae.work import vae_work
from ..weights.lora import LoraMatch


@dataclass(frozen=True, kw_only=True)
class PlannedModels:
    """The configurations of the models that a run uses.

    Attributes:
        motion: Stage I's DiT; all experts are alike.
        motion_vae: its VAE.
        detail: Stage II's DiT.
        detail_vae: its VAE.
        experts: how many take turns in Stage I.
        motion_packed_nbytes: of an expert's weights, where they stay packed in 8 bits.
        detail_packed_nbytes: of Stage II's.
        text: the text encoder, where it is large enough to matter and works in this run.
        text_packed_nbytes: of its weights.
        loras: that go onto the DiTs, by slot.
    """

    motion: DiTConfig
    motion_vae: VAEConfig
    detail: DiTConfig
    detail_vae: VAEConfig
    experts: int = 1
    motion_packed_nbytes: int | None = None
    detail_packed_nbytes: int | None = None
    text: UMT5Config | None = None
    text_packed_nbytes: int | None = None
    loras: Mapping[str, tuple[LoraMatch, ...]] = field(
        default_factory=dict[str, tuple[LoraMatch, ...]]
    )


@dataclass(frozen=True, kw_only=True)
class StageWork:
    """Arithmetic of one stage.

    Attributes:
        stage: its name.
        flops: multiplications and additions.
    """

    stage: str
    flops: int


def _passes(recipe: Recipe) -> int:
    """Count the model calls of a run: with guidance, two a step."""
    return recipe.steps * recipe.prompts


def motion_work(
    models: PlannedModels, motion: PixelShape, latent: LatentShape, recipe: Recipe
) -> tuple[StageWork, ...]:
    """Count Stage I: the picture's encode, the DiT, the clip's decode."""
    tokens = latent.latent_frames * latent.tokens_per_frame(models.motion.patch)
    clip = vae_work(models.motion_vae, motion)
    # The picture goes in alone, or (with mask channels) in front of a whole clip of nothing.
    first = PixelShape(pixel_frames=1, height=motion.height, width=motion.width)
    alone = models.motion.in_channels == models.motion.out_channels
    encode = vae_work(models.motion_vae, first) if alone else clip
    return (
        StageWork(stage="motion: picture", flops=encode.encode_flops),
        StageWork(stage="motion", flops=_passes(recipe) * dit_flops(models.motion, tokens=tokens)),
        StageWork(stage="motion: decode", flops=clip.decode_flops),
    )


def refine_flops(detail: DiTConfig, latent: LatentShape, plan: SegmentPlan, recipe: Recipe) -> int:
    """Count Stage II's DiT."""
    tokens_per_frame = latent.tokens_per_frame(detail.patch)
    passes = _passes(recipe)

    def segment_flops(segment: Segment) -> int:
        frames, targets = len(segment.latent_frames), len(segment.targets)
        if plan.settings.interaction is Interaction.BIDIRECTIONAL:
            return passes * dit_flops(detail, tokens=frames * tokens_per_frame)
        context = (frames - targets) * tokens_per_frame
        once = (passes // recipe.steps) * dit_flops(detail, tokens=context)
        return once + passes * dit_flops(
            detail, tokens=targets * tokens_per_frame, context_tokens=context
        )

    return sum(segment_flops(segment) for segment in plan.segments)
