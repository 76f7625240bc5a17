"""Conditional Segment-wise Generation: sample a clip segment by segment.

Each segment sees the anchor, its neighbors and the reference, and is written back into the
reference when it is finished, so that the next one sees it. Cost per step is bounded whatever
the length of the clip.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch

from ..errors import ScheduleError, SegmentError
from ..flow.noise import ClipNoise
from ..flow.recipe import SolverName
from ..flow.solvers import OnStep, sample
from ..geometry import LatentShape
from ..progress import Observer, Phase, Progress, ignore
from ..shapes import Float, Tensor
from .denoiser import Denoiser, SegmentContext
from .plan import Segment, SegmentPlan

_NO_SEEDS: Mapping[int, int] = {}


def _keep_nothing(_index: int, _targets: Tensor) -> None:
    """Ignore a finished segment."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """Segments that need not be sampled, and who is handed those that were.

    Attributes:
        targets: by segment index, ``"b c m h w"``: what an earlier run with the same settings made.
        keep: called with index and targets of each segment as soon as it is sampled.
    """

    targets: Mapping[int, Tensor] = field(default_factory=dict[int, Tensor])
    keep: Callable[[int, Tensor], None] = _keep_nothing


@dataclass(frozen=True, kw_only=True)
class SegmentSampling:
    """How each segment is sampled.

    Attributes:
        sigmas: noise levels; from below 1 the targets start from the noised reference.
        solver: how a step is made.
        seed: of the whole clip's noise.
        segment_seeds: seeds of their own for some segments, by index: re-rolls them.
        finished: segments of an interrupted run; with them the result is that of a whole one.
        device: where segments are sampled; None: where the reference is.
    """

    sigmas: tuple[float, ...]
    solver: SolverName
    seed: int
    segment_seeds: Mapping[int, int] = field(default_factory=lambda: _NO_SEEDS)
    finished: Finished = field(default_factory=Finished)
    device: torch.device | None = None

    def __post_init__(self) -> None:
        if len(self.sigmas) < 2:
            raise ScheduleError(f"a schedule of {len(self.sigmas)} noise levels has no step.")


def gather(latent: Float[Tensor, "b c t h w"], segment: Segment) -> Float[Tensor, "b c s h w"]:
    """Collect the latent frames that a segment sees, in its order."""
    return latent[:, :, list(segment.latent_frames)]


def start_targets(
    reference: Float[Tensor, "b c m h w"], noise: Float[Tensor, "1 c m h w"], *, sigma: float
) -> Float[Tensor, "b c m h w"]:
    """Noise the reference to where the schedule starts; at 1 that is the noise alone."""
    if sigma == 1:
        return noise.expand_as(reference).clone()
    return (1 - sigma) * reference + sigma * noise


def check_segment_seeds(plan: SegmentPlan, segment_seeds: Mapping[int, int]) -> None:
    """Refuse seeds for segments that the plan does not have.

    Raises:
        SegmentError: naming the segment and how many there are.
    """
    count = len(plan.segments)
    for index in segment_seeds:
        if not 0 <= index < count:
            raise SegmentError(
                f"segment {index} cannot be re-rolled: the plan has {count} segments, counted "
                f"from 0 to {count - 1}."
            )


def sample_segments(
    denoiser: Denoiser,
    reference: Float[Tensor, "b c t h w"],
    plan: SegmentPlan,
    sampling: SegmentSampling,
    *,
    phase: Phase = Phase.REFINE,
    observe: Observer = ignore,
) -> Float[Tensor, "b c t h w"]:
    """Sample every segment of the plan, in order.

    Args:
        reference: the hybrid reference, fp32; frame 0 is the anchor and stays as it is.
        plan: made for as many latent frames.
        phase: what to report to the observer.
        observe: told of every step, with the clean estimate of the targets; what it raises
            passes through, and nothing is left behind.

    Raises:
        SegmentError: if the plan is for another length, or a segment seed for no segment.

    Source: SwiftI2V, arXiv 2605.06356, project page and figure CSG.
    """
    latent = reference.clone()
    work = walk_segments(denoiser, latent, plan, sampling, phase=phase, observe=observe)
    deque(work, maxlen=0)
    return latent


def walk_segments(
    denoiser: Denoiser,
    latent: Float[Tensor, "b c t h w"],
    plan: SegmentPlan,
    sampling: SegmentSampling,
    *,
    phase: Phase = Phase.REFINE,
    observe: Observer = ignore,
) -> Iterator[Segment]:
    """Sample segment by segment as they are asked for, and give each one that is finished.

    Args:
        latent: the hybrid reference in the beginning; targets are written into it. Only a
            segment's frames are brought to the device, so a long clip takes no more of it.

    See ``sample_segments`` for everything else.
    """
    shape = _shape_of(latent, plan)
    check_segment_seeds(plan, sampling.segment_seeds)
    clip_noise = ClipNoise(seed=sampling.seed, shape=shape)
    for segment in plan.segments:
        start = Progress(
            phase=phase,
            step=0,
            steps=len(sampling.sigmas) - 1,
            segment=segment.index,
            segments=len(plan.segments),
        )
        where = slice(segment.targets[0], segment.targets[-1] + 1)
        if segment.index in sampling.finished.targets:
            latent[:, :, where] = sampling.finished.targets[segment.index]
            observe(replace(start, step=start.steps, preview=latent[:, :, where]))
            yield segment
            continue
        noise = clip_noise
        if segment.index in sampling.segment_seeds:
            noise = ClipNoise(seed=sampling.segment_seeds[segment.index], shape=shape)
        context = SegmentContext(
            segment=segment,
            reference=gather(latent, segment).to(sampling.device or latent.device),
            interaction=plan.settings.interaction,
        )
        latent[:, :, where] = _sample_segment(
            denoiser, context, sampling, noise=noise, on_step=_report(observe, start)
        )
        sampling.finished.keep(segment.index, latent[:, :, where])
        yield segment


def _shape_of(latent: Tensor, plan: SegmentPlan) -> LatentShape:
    channels, latent_frames, height, width = latent.shape[1:]
    if plan.latent_frames != latent_frames:
        raise SegmentError(
            f"the plan is for {plan.latent_frames} latent frames, the reference has "
            f"{latent_frames}; plan again for this clip."
        )
    return LatentShape(channels=channels, latent_frames=latent_frames, height=height, width=width)


def _sample_segment(
    denoiser: Denoiser,
    context: SegmentContext,
    sampling: SegmentSampling,
    *,
    noise: ClipNoise,
    on_step: OnStep,
) -> Float[Tensor, "b c m h w"]:
    """Sample the targets of one segment."""
    targets = context.segment.targets
    target_reference = context.reference[:, :, context.segment.target_slice]
    device = target_reference.device

    def fresh_noise(step: int) -> Tensor:
        return noise.fresh(targets, step=step).to(device)

    return sample(
        sampling.solver,
        denoiser.open(context),
        start_targets(target_reference, noise.start(targets).to(device), sigma=sampling.sigmas[0]),
        sampling.sigmas,
        fresh_noise=fresh_noise,
        on_step=on_step,
    )


def _report(observe: Observer, start: Progress) -> OnStep:
    """Turn a solver's steps into progress of a segment."""

    def on_step(step: int, clean: Tensor) -> None:
        observe(replace(start, step=step, preview=clean))

    return on_step
