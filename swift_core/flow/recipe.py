"""How a model wants to be sampled, as one checked value."""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..errors import ScheduleError
from .sigmas import check_sigma_shift

MOST_STEPS = 10_000


class SolverName(Enum):
    """The ways to walk from noise to a picture."""

    EULER = "euler"
    RENOISE = "renoise"
    UNIPC = "unipc"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Sampling settings of one stage.

    Attributes:
        steps: sampling steps, at least 1.
        cfg: classifier-free guidance; 1 means one pass without a negative prompt.
        sigma_shift: warp of the noise levels; larger spends more steps on noise.
        solver: how a step is made.
    """

    steps: int
    cfg: float
    sigma_shift: float
    solver: SolverName

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ScheduleError(f"steps is {self.steps}; at least 1 is needed.")
        if self.steps > MOST_STEPS:
            raise ScheduleError(f"steps is {self.steps}; more than {MOST_STEPS} are of no use.")
        if not (math.isfinite(self.cfg) and self.cfg >= 0):
            raise ScheduleError(f"cfg is {self.cfg:g}; it must be 0 or more (1 = no guidance).")
        check_sigma_shift(self.sigma_shift)

    @property
    def prompts(self) -> int:
        """How many prompts each step is asked with: guidance asks with the negative one too."""
        return 1 if self.cfg == 1 else 2

    def as_data(self) -> dict[str, Any]:
        """Give the recipe as plain data, for JSON."""
        return {
            "steps": self.steps,
            "cfg": self.cfg,
            "sigma_shift": self.sigma_shift,
            "solver": self.solver.value,
        }
