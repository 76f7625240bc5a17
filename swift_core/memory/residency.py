"""How many of a DiT's blocks stay on the device: as many as fit, decided before anything is moved.

What must be there: the weights outside the blocks, what a step computes, and, once a single block
does not fit, two slots that the others pass through in turn. The streamed blocks are spread evenly
among the resident ones, so that each has the most work of others to hide its copy behind.
"""

from dataclasses import dataclass

from ..errors import BudgetError

SLOTS = 2
"""One block computes while the next one arrives."""


@dataclass(frozen=True, kw_only=True)
class Residency:
    """Where a DiT's weights are while it works.

    Attributes:
        blocks: how many there are.
        resident: how many stay on the device.
        block_nbytes: of the largest block's weights.
        fixed_nbytes: of the weights outside the blocks.
        working_nbytes: of what a step computes.
    """

    blocks: int
    resident: int
    block_nbytes: int
    fixed_nbytes: int
    working_nbytes: int

    @property
    def streamed(self) -> tuple[int, ...]:
        """List the blocks that are not resident, spread evenly."""
        count = self.blocks - self.resident
        return tuple((2 * index + 1) * self.blocks // (2 * count) for index in range(count))

    @property
    def device_nbytes(self) -> int:
        """Tell the most that is on the device: weights, slots and work."""
        held = self.resident + min(SLOTS, self.blocks - self.resident)
        return self.fixed_nbytes + self.working_nbytes + held * self.block_nbytes

    @property
    def streamed_nbytes(self) -> int:
        """Tell what goes to the device in each pass."""
        return (self.blocks - self.resident) * self.block_nbytes

    @property
    def words(self) -> str:
        """Say which blocks are where."""
        if self.resident == self.blocks:
            return f"all {self.blocks} blocks resident"
        return (
            f"{self.resident} of {self.blocks} blocks resident, the others streamed "
            f"({self.streamed_nbytes / 1e9:.1f} GB in each pass)"
        )

    def describe(self) -> str:
        """Say which blocks are where, and what it takes."""
        return f"{self.words}, {self.device_nbytes / 1e9:.1f} GB on the device"


def fit_residency(
    *, blocks: int, block_nbytes: int, fixed_nbytes: int, working_nbytes: int, budget_nbytes: int
) -> Residency:
    """Keep as many blocks on the device as fit.

    Args:
        budget_nbytes: for weights and work together.

    Raises:
        BudgetError: if not even two slots fit, saying what would.
    """

    def keeping(resident: int) -> Residency:
        return Residency(
            blocks=blocks,
            resident=resident,
            block_nbytes=block_nbytes,
            fixed_nbytes=fixed_nbytes,
            working_nbytes=working_nbytes,
        )

    for resident in range(blocks, -1, -1):
        if keeping(resident).device_nbytes <= budget_nbytes:
            return keeping(resident)
    least = keeping(0).device_nbytes
    room = budget_nbytes - (least - working_nbytes)
    raise BudgetError(
        f"the DiT takes at least {least / 1e9:.1f} GB with all of its blocks streamed "
        f"({working_nbytes / 1e9:.1f} GB of it for one step), {budget_nbytes / 1e9:.1f} GB are "
        "free",
        share=max(0.0, room / working_nbytes) if working_nbytes else 0.0,
        least_nbytes=least,
    )
