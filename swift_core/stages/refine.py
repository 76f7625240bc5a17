"""Stage II: the reference becomes the video's latent, segment by segment."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from ..errors import ScheduleError
from ..flow.recipe import Recipe
from ..flow.sigmas import make_sigmas
from ..model.dit import WanDiT
from ..progress import Phase
from ..segments.denoiser import Denoiser, GuidedDenoiser
from ..segments.dit_denoiser import DiTDenoiser
from ..segments.plan import Segment, SegmentPlan
from ..segments.sampler import Finished, SegmentSampling, walk_segments
from ..shapes import Float, Tensor
from .prompt import GuidedPrompt
from .runtime import Runtime

NOISED_REFERENCE_STRENGTH = 0.5
"""Default for a DiT without reference channels: LongCat-Video's refinement starts there too."""

_NOTHING_FINISHED = Finished()


def check_reference_strength(strength: float | None) -> None:
    """Refuse a share of the reference that leaves nothing to sample.

    Raises:
        ScheduleError: naming the value and the range.
    """
    if strength is not None and not 0 <= strength < 1:
        raise ScheduleError(
            f"reference_strength is {strength:g}; it must be at least 0 (start from noise) "
            "and below 1 (which would leave nothing to sample)."
        )


@dataclass(frozen=True, kw_only=True)
class RefineSettings:
    """How Stage II samples.

    Attributes:
        plan: the segments.
        recipe: steps, guidance, shift and solver.
        seed: of the clip's noise.
        segment_seeds: seeds of their own for some segments, by index.
        reference_strength: share of the reference in what the targets start from, in [0, 1);
            0 starts from pure noise. None: 0 where the reference is concatenated, else 0.5.
    """

    plan: SegmentPlan
    recipe: Recipe
    seed: int
    segment_seeds: Mapping[int, int] = field(default_factory=dict[int, int])
    reference_strength: float | None = None

    def __post_init__(self) -> None:
        check_reference_strength(self.reference_strength)

    def sampling(self, *, concatenates_reference: bool) -> SegmentSampling:
        """Give the sampler its schedule, for a model that sees the reference or does not."""
        strength = self.reference_strength
        if strength is None:
            strength = 0.0 if concatenates_reference else NOISED_REFERENCE_STRENGTH
        sigmas = make_sigmas(
            self.recipe.steps, sigma_shift=self.recipe.sigma_shift, start=1 - strength
        )
        return SegmentSampling(
            sigmas=sigmas,
            solver=self.recipe.solver,
            seed=self.seed,
            segment_seeds=self.segment_seeds,
        )


def make_denoiser(dit: WanDiT, prompt: GuidedPrompt, runtime: Runtime) -> Denoiser:
    """Put a DiT and its prompt behind the sampler's protocol, with guidance if asked for."""
    compute = runtime.precision.compute
    positive = DiTDenoiser(dit=dit, prompt=prompt.positive, compute=compute)
    if prompt.negative is None:
        return positive
    negative = DiTDenoiser(dit=dit, prompt=prompt.negative, compute=compute)
    return GuidedDenoiser(conditional=positive, unconditional=negative, cfg=prompt.cfg)


def refine(
    dit: WanDiT,
    reference: Float[Tensor, "1 c t h w"],
    prompt: GuidedPrompt,
    settings: RefineSettings,
    *,
    runtime: Runtime,
    finished: Finished = _NOTHING_FINISHED,
) -> Float[Tensor, "1 c t h w"]:
    """Sample the video's latent; frame 0 stays the picture.

    Args:
        reference: from ``build_reference``.
        finished: segments that an interrupted run has made already, and who keeps new ones.

    Source: SwiftI2V, arXiv 2605.06356, Stage II.
    """
    latent = reference.clone()
    walk = refine_segments(dit, latent, prompt, settings, runtime=runtime, finished=finished)
    deque(walk, maxlen=0)
    return latent


def refine_segments(
    dit: WanDiT,
    latent: Float[Tensor, "1 c t h w"],
    prompt: GuidedPrompt,
    settings: RefineSettings,
    *,
    runtime: Runtime,
    finished: Finished = _NOTHING_FINISHED,
) -> Iterator[Segment]:
    """Sample the video's latent as its segments are asked for; each is given when finished.

    Args:
        latent: the reference in the beginning; segments are written into it.
    """
    concatenates = dit.config.in_channels > dit.config.out_channels
    sampling = settings.sampling(concatenates_reference=concatenates)
    return walk_segments(
        make_denoiser(dit, prompt, runtime),
        latent,
        settings.plan,
        replace(sampling, finished=finished, device=runtime.device),
        phase=Phase.REFINE,
        observe=runtime.observe,
    )
