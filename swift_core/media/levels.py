"""From ``[0, 1]`` to the whole numbers that files hold."""

from ..errors import MediaError
from ..shapes import Float, Int, Tensor


def to_levels(values: Float[Tensor, "*axes"], *, top: int) -> Int[Tensor, "*axes"]:
    """Round to the nearest of the levels ``0 .. top``; what lies outside [0, 1] goes to the ends.

    Raises:
        MediaError: if a value is not a number.
    """
    check_numbers(values)
    # A half is added and the rest cut off: rounding half to even would treat levels unequally.
    return values.float().clamp(0, 1).mul(top).add_(0.5).floor_().int()


def check_numbers(values: Float[Tensor, "*axes"]) -> None:
    """Refuse values that are not numbers (NaN), which no level can stand for.

    Raises:
        MediaError: naming the usual cause.
    """
    if values.isnan().any():
        raise MediaError(
            "the picture holds values that are not numbers (NaN): the model that made it left the "
            "range of its precision; choose bf16 or fp32 instead of fp16."
        )
