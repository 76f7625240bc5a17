"""How a refined clip holds together: at the joins between segments, and from first to last.

Joins are measured against the truth, and drift against the VAE's reconstruction of it, so that what
moves by itself, or becomes simpler as the camera comes near, does not count.

Axes: ``p h w 3`` clips in [0, 1].
"""

import torch

from swift_core.segments.plan import SegmentPlan
from swift_core.shapes import Float, Tensor

from .measure import luma, psnr


def first_pixel_frame(latent_frame: int, *, time: int) -> int:
    """Give the first pixel frame that a latent frame after the first makes."""
    return time * (latent_frame - 1) + 1


def seam_energy(
    made: Float[Tensor, "p h w 3"], true: Float[Tensor, "p h w 3"], plan: SegmentPlan, *, time: int
) -> float:
    """Compare how the error jumps where segments join with how it jumps inside them.

    Only steps from one latent frame to the next count, on both sides: there a VAE's chunks join.

    Returns:
        A ratio of mean squares; 1 means that segments leave no trace. 0 joins or no steps inside
        segments give not a number.
    """
    error = made - true
    starts = {segment.targets[0] for segment in plan.segments[1:]}
    jumps: dict[bool, list[Tensor]] = {True: [], False: []}
    for latent_frame in range(2, plan.latent_frames):
        at = first_pixel_frame(latent_frame, time=time)
        jumps[latent_frame in starts].append((error[at] - error[at - 1]).square().mean())
    if not all(jumps.values()):
        return float("nan")
    return float(torch.stack(jumps[True]).mean() / torch.stack(jumps[False]).mean())


def sharpness(clip: Float[Tensor, "p h w 3"]) -> float:
    """Give the mean slope of brightness, per pixel."""
    bright = luma(clip)
    down, right = bright.diff(dim=1)[:, :, :-1], bright.diff(dim=2)[:, :-1]
    return float((down.square() + right.square()).sqrt().mean())


def by_segment(
    made: Float[Tensor, "p h w 3"],
    best: Float[Tensor, "p h w 3"],
    true: Float[Tensor, "p h w 3"],
    plan: SegmentPlan,
    *,
    time: int,
) -> list[dict[str, float]]:
    """Judge each segment's frames beside the best that can be expected of them.

    Args:
        best: the VAE's reconstruction of the truth.

    Returns:
        For each segment ``sharpness``, as a share of the best's, and ``gap``: by how many
        decibels it lies nearer to the truth than the best, so mostly a negative number.
    """
    rows: list[dict[str, float]] = []
    for segment in plan.segments:
        begin = first_pixel_frame(segment.targets[0], time=time)
        end = first_pixel_frame(segment.targets[-1] + 1, time=time)
        ours, theirs, truth = (clip[begin:end] for clip in (made, best, true))
        rows.append(
            {
                "sharpness": sharpness(ours) / sharpness(theirs),
                "gap": psnr(ours, truth) - psnr(theirs, truth),
            }
        )
    return rows


def change(values: list[float]) -> float:
    """Give how much values change from the first to the last, by a line through all of them."""
    place = torch.linspace(-0.5, 0.5, len(values), dtype=torch.float64)
    heights = torch.tensor(values, dtype=torch.float64)
    return float((place * heights).sum() / place.square().sum()) if len(values) > 1 else 0.0
