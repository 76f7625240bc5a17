"""The plan of a run: sizes, segments, tokens and work, before any weight is read.

It is a pure function of the settings and of the models' configurations, it refuses what cannot
work, and it is printed for people and given as JSON for programs.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..errors import GeometryError
from ..flow.recipe import Recipe
from ..geometry import (
    MOTION_SCALE,
    OUTPUT_MULTIPLE,
    LatentShape,
    PixelShape,
    check_output_size,
    latent_frames_of,
    motion_shape,
)
from ..memory.working import Step
from ..model.config import WAN22_I2V_A14B, WAN22_REFERENCE_5B
from ..model.work import dit_parameters
from ..segments.plan import Interaction, Segment, SegmentPlan, SegmentSettings, plan_segments
from ..text.umt5 import UMT5Config
from ..vae.config import WAN21_VAE, WAN22_VAE
from ..vae.work import vae_work
from ..weights.model_set import ModelSet, loras_of
from .work import PlannedModels, StageWork, motion_work, refine_flops


def planned_models(models: ModelSet) -> PlannedModels:
    """Give the configurations of a set of models."""
    text = models.text.config
    return PlannedModels(
        motion=models.motion_high.config,
        motion_vae=models.motion_vae.config,
        detail=models.detail.config,
        detail_vae=models.detail_vae.config,
        experts=1 if models.motion_low is None else 2,
        motion_packed_nbytes=models.motion_high.packed_nbytes,
        detail_packed_nbytes=models.detail.packed_nbytes,
        text=text if isinstance(text, UMT5Config) else None,
        text_packed_nbytes=models.text.packed_nbytes,
        loras=loras_of(models),
    )


PUBLISHED_MODELS = PlannedModels(
    motion=WAN22_I2V_A14B,
    motion_vae=WAN21_VAE,
    detail=WAN22_REFERENCE_5B,
    detail_vae=WAN22_VAE,
    experts=2,
)
"""Wan2.2-I2V-A14B for motion and the 96-channel TI2V-5B for detail."""


BYTES_PER_PARAMETER = 2
"""Of bf16 and fp16, in which models are held unless a user asks for less."""


@dataclass(frozen=True, kw_only=True)
class GenerationPlan:
    """All that is known of a run beforehand.

    Attributes:
        output: the video.
        motion: the motion clip of Stage I.
        motion_latent: that clip for Stage I's DiT.
        latent: the video for Stage II's DiT.
        segments: of Stage II.
        tokens_per_frame: tokens of one latent frame in Stage II.
        work: arithmetic of each stage, in order.
        motion_step: the largest step of Stage I.
        detail_step: of Stage II.
        motion_nbytes: of one expert's weights in 16 bits; 0 without Stage I.
        detail_nbytes: of Stage II's weights in 16 bits.
    """

    output: PixelShape
    motion: PixelShape
    motion_latent: LatentShape
    latent: LatentShape
    segments: SegmentPlan
    tokens_per_frame: int
    work: tuple[StageWork, ...]
    motion_step: Step
    detail_step: Step
    motion_nbytes: int
    detail_nbytes: int

    @property
    def tokens_per_step(self) -> int:
        """Tokens of Stage II's largest segment."""
        return self.segments.largest * self.tokens_per_frame

    @property
    def has_motion(self) -> bool:
        """Whether the motion clip is given, so that Stage I is left out."""
        return self.motion_nbytes == 0

    @property
    def flops(self) -> int:
        """Arithmetic of the whole run."""
        return sum(stage.flops for stage in self.work)

    @property
    def latent_nbytes(self) -> int:
        """Bytes of the video's latent, in fp32."""
        latent = self.latent
        values = latent.channels * latent.latent_frames * latent.height * latent.width
        return 4 * values

    def as_data(self) -> dict[str, Any]:
        """Give the plan as plain data, for JSON."""
        settings = self.segments.settings
        return {
            "output": asdict(self.output),
            "motion": asdict(self.motion),
            "motion_latent": asdict(self.motion_latent),
            "latent": asdict(self.latent),
            "settings": {
                "segment_length": settings.segment_length,
                "neighbors": settings.neighbors,
                "right_neighbors": settings.right_neighbors,
                "rope": settings.rope.value,
                "interaction": settings.interaction.value,
            },
            "segments": [
                {
                    "index": segment.index,
                    "latent_frames": segment.latent_frames,
                    "roles": [role.value for role in segment.roles],
                    "positions": segment.positions,
                }
                for segment in self.segments.segments
            ],
            "tokens_per_frame": self.tokens_per_frame,
            "tokens_per_step": self.tokens_per_step,
            "work": [asdict(stage) for stage in self.work],
            "flops": self.flops,
            "weights_nbytes": {"motion": self.motion_nbytes, "detail": self.detail_nbytes},
        }

    def describe(self) -> str:
        """Give the plan in words, a line each."""
        latent = self.latent
        lines = [
            f"video     {self.output}",
            "motion    a clip that is given"
            if self.has_motion
            else f"motion    {self.motion} (Stage I)",
            f"latent    {latent.channels}x{latent.latent_frames}x{latent.height}x{latent.width}, "
            f"{self.tokens_per_frame} tokens per latent frame",
            f"segments  {len(self.segments.segments)}, at most {self.segments.largest} latent "
            f"frames or {self.tokens_per_step} tokens per step "
            f"(unsegmented: {latent.latent_frames * self.tokens_per_frame})",
        ]
        lines += [f"          {_describe_segment(s)}" for s in self.segments.segments]
        lines.append(f"work      {_engineering(self.flops).strip()}FLOP")
        lines += [f"          {_engineering(w.flops)}FLOP {w.stage}" for w in self.work]
        expert = f"{_engineering(self.motion_nbytes).strip()}B Stage I (each expert), "
        lines.append(
            f"weights   {'' if self.has_motion else expert}"
            f"{_engineering(self.detail_nbytes).strip()}B Stage II, in 16 bits; one at a time"
        )
        return "\n".join(lines)


def plan_generation(
    output: PixelShape,
    settings: SegmentSettings,
    *,
    models: PlannedModels = PUBLISHED_MODELS,
    motion_recipe: Recipe,
    detail_recipe: Recipe,
    has_motion: bool = False,
) -> GenerationPlan:
    """Plan a run, or refuse it.

    Args:
        has_motion: whether the motion clip is given, so that Stage I is left out.

    Raises:
        GeometryError: if the size or the number of frames does not work for these models.
    """
    check_output_size(output.height, output.width, multiple=size_multiple(models))
    latent_frames = latent_frames_of(output.pixel_frames, time=models.detail_vae.compression.time)
    if latent_frames < 2:
        raise GeometryError(
            f"{output.pixel_frames} frame is a picture, not a video; the shortest video has "
            f"{models.detail_vae.compression.time + 1} frames."
        )
    motion = motion_shape(output)
    motion_latent = motion.latent(
        models.motion_vae.compression, channels=models.motion_vae.latent_channels
    )
    latent = output.latent(
        models.detail_vae.compression, channels=models.detail_vae.latent_channels
    )
    plan = plan_segments(latent_frames, settings)
    stage_one = () if has_motion else motion_work(models, motion, motion_latent, motion_recipe)
    detail_vae_work = vae_work(models.detail_vae, output)
    return GenerationPlan(
        output=output,
        motion=motion,
        motion_latent=motion_latent,
        latent=latent,
        segments=plan,
        tokens_per_frame=latent.tokens_per_frame(models.detail.patch),
        work=(
            *stage_one,
            StageWork(stage="reference", flops=detail_vae_work.encode_flops),
            StageWork(
                stage="refine", flops=refine_flops(models.detail, latent, plan, detail_recipe)
            ),
            StageWork(stage="decode", flops=detail_vae_work.decode_flops),
        ),
        motion_step=Step(
            window=motion_latent,
            prompts=motion_recipe.prompts,
            passes=motion_recipe.prompts * (motion_recipe.steps + models.experts),
        ),
        detail_step=_detail_step(latent, plan, detail_recipe),
        motion_nbytes=0 if has_motion else BYTES_PER_PARAMETER * dit_parameters(models.motion),
        detail_nbytes=BYTES_PER_PARAMETER * dit_parameters(models.detail),
    )


def size_multiple(models: PlannedModels) -> int:
    """Give the number that both output sides must be multiples of, for these models."""
    detail = models.detail_vae.compression.space * models.detail.patch.height
    motion = MOTION_SCALE * models.motion_vae.compression.space * models.motion.patch.height
    return math.lcm(OUTPUT_MULTIPLE, detail, motion)


def _detail_step(latent: LatentShape, plan: SegmentPlan, recipe: Recipe) -> Step:
    """Give Stage II's largest step; the prompt is read once more than it is used."""
    reads_only = plan.settings.interaction is Interaction.READ_ONLY
    calls = recipe.steps + (1 if reads_only else 0)
    conditions = max(len(s.latent_frames) - len(s.targets) for s in plan.segments)
    return Step(
        window=replace(latent, latent_frames=plan.largest),
        prompts=recipe.prompts,
        remembered_frames=conditions if reads_only else 0,
        passes=recipe.prompts * (len(plan.segments) * calls + 1),
    )


def _describe_segment(segment: Segment) -> str:
    def span(frames: tuple[int, ...]) -> str:
        return str(frames[0]) if len(frames) == 1 else f"{frames[0]}-{frames[-1]}"

    sees = ", ".join(["0", *(span(side) for side in (segment.left, segment.right) if side)])
    return f"{segment.index:>2}: samples {span(segment.targets)}, sees {sees}"


def _engineering(number: int) -> str:
    """Write a number with three digits and a unit prefix."""
    value = float(number)
    for prefix in ("", "k", "M", "G", "T"):
        if value < 1000:
            return f"{value:6.3g} {prefix}"
        value /= 1000
    return f"{value:6.3g} P"
