"""Noise levels: from exactly where sampling starts to exactly 0.

``sigma`` is the share of noise in a latent, ``latent = (1 - sigma) * clean + sigma * noise``.
Schedules are tuples of Python floats (float64): they are a handful of numbers, and rounding them
earlier is a known cause of drift between implementations.
"""

from ..errors import ScheduleError

SHIFT_RANGE = (1e-3, 1e3)
"""Beyond these, double precision can no longer tell the noise levels apart."""


def check_sigma_shift(sigma_shift: float) -> None:
    """Refuse a warp that is not a number within ``SHIFT_RANGE``.

    Raises:
        ScheduleError: naming the value and the range.
    """
    low, high = SHIFT_RANGE
    if not low <= sigma_shift <= high:
        raise ScheduleError(
            f"sigma_shift is {sigma_shift:g}; it must be between {low:g} and {high:g} (usual: 5)."
        )


def shift_sigma(sigma: float, *, sigma_shift: float) -> float:
    """Warp a noise level so that more steps are spent on noise; 1 leaves it alone."""
    return sigma_shift * sigma / (1 + (sigma_shift - 1) * sigma)


def make_sigmas(steps: int, *, sigma_shift: float, start: float = 1.0) -> tuple[float, ...]:
    """Space the noise levels of a run evenly, then warp them.

    With ``steps`` 4 and ``sigma_shift`` 5 the timesteps ``1000 * sigma`` are 1000, 937.5, 833.3
    and 625: those the 4-step distillations of Wan2.2 were made for.

    Args:
        steps: sampling steps, at least 1.
        sigma_shift: the warp, within ``SHIFT_RANGE``.
        start: the first level, in (0, 1]; below 1 the same curve is entered later.

    Returns:
        ``steps + 1`` levels, strictly falling, the first exactly ``start``, the last exactly 0.

    Raises:
        ScheduleError: if an argument is out of range.
    """
    if steps < 1:
        raise ScheduleError(f"steps is {steps}; at least 1 is needed.")
    check_sigma_shift(sigma_shift)
    if not 0 < start <= 1:
        raise ScheduleError(f"the first noise level is {start:g}; it must be above 0, at most 1.")
    begin = shift_sigma(start, sigma_shift=1 / sigma_shift)
    inner = (
        shift_sigma(begin * (steps - step) / steps, sigma_shift=sigma_shift)
        for step in range(1, steps)
    )
    # Pinned: in floating point s * 1 / (1 + (s - 1) * 1) is not 1 for every s.
    return (float(start), *inner, 0.0)
