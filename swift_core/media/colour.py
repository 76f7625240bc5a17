"""Between RGB and the luma and chroma that videos store.

The arithmetic is here and not in libswscale for two reasons. Its 16-bit RGB is a 256th too bright
(white becomes 943 instead of 940 in 10 bits). And it takes chroma for centred between two columns
where the format has it on the left one, unless PyAV is new and the decoder says so: colours then
shift by half a pixel on every pass.

Axes: ``h w`` luma rows and columns; 3 is red, green, blue.
Source: ITU-R BT.709-6, BT.601-7, BT.2020-2; numbers of the tags: ITU-T H.273 table 4.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ..shapes import Float, Int, Tensor


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """The weights of red and blue in luma; green has the rest."""

    red: float
    blue: float


BT709 = Matrix(red=0.2126, blue=0.0722)
BT601 = Matrix(red=0.299, blue=0.114)
FCC = Matrix(red=0.30, blue=0.11)
SMPTE240M = Matrix(red=0.212, blue=0.087)
BT2020 = Matrix(red=0.2627, blue=0.0593)

MATRICES = {1: BT709, 4: FCC, 5: BT601, 6: BT601, 7: SMPTE240M, 9: BT2020, 10: BT2020}
"""By the number that streams carry in their tags."""

HIGH_DEFINITION = 720
"""Untagged clips from this height on are taken for BT.709, lower ones for BT.601, as players do."""


def matrix_of(tag: int, *, height: int) -> Matrix:
    """Choose the matrix that a stream was made with; untagged ones by their height."""
    return MATRICES.get(tag, BT709 if height >= HIGH_DEFINITION else BT601)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How luma in [0, 1] and chroma in [-1/2, 1/2] become whole numbers."""

    black: int
    luma: int
    grey: int
    chroma: int


def scale_of(bits: int, *, full_range: bool) -> Scale:
    """Give the scale of a bit depth, in limited (16..235) or full range."""
    unit = 2 ** (bits - 8)
    top = 2**bits - 1
    if full_range:
        return Scale(black=0, luma=top, grey=128 * unit, chroma=top)
    return Scale(black=16 * unit, luma=219 * unit, grey=128 * unit, chroma=224 * unit)


def rgb_to_planes(
    picture: Float[Tensor, "h w 3"], *, bits: int, chroma_step: tuple[int, int]
) -> tuple[Int[Tensor, "h w"], Int[Tensor, "h2 w2"], Int[Tensor, "h2 w2"]]:
    """Convert to BT.709 luma and chroma in limited range.

    Args:
        picture: in [0, 1].
        chroma_step: (1, 2) or (2, 2): rows and columns that share a chroma value.
    """
    scale = scale_of(bits, full_range=False)
    red, green, blue = picture.unbind(-1)
    luma = BT709.red * red + (1 - BT709.red - BT709.blue) * green + BT709.blue * blue
    planes = [luma * scale.luma + scale.black]
    for colour, weight in ((blue, BT709.blue), (red, BT709.red)):
        chroma = _share((colour - luma) / (2 * (1 - weight)), rows=chroma_step[0])
        planes.append(chroma * scale.chroma + scale.grey)
    first, second, third = ((plane + 0.5).floor().int() for plane in planes)
    return first, second, third


def planes_to_rgb(
    luma: Float[Tensor, "h w"],
    chroma: Float[Tensor, "2 h2 w2"],
    *,
    matrix: Matrix,
    scale: Scale,
    centred: bool = False,
) -> Float[Tensor, "h w 3"]:
    """Convert stored luma and chroma (blue, red) to RGB in [0, 1].

    Args:
        chroma: whole, or halved in columns, in rows, or in both.
        centred: whether shared chroma belongs between two columns (JPEG) or to the left one.
    """
    height, width = luma.shape
    luma = (luma - scale.black) / scale.luma
    chroma = (
        _spread(chroma, height=height, width=width, centred=centred) - scale.grey
    ) / scale.chroma
    blue = luma + 2 * (1 - matrix.blue) * chroma[0]
    red = luma + 2 * (1 - matrix.red) * chroma[1]
    green = (luma - matrix.red * red - matrix.blue * blue) / (1 - matrix.red - matrix.blue)
    return torch.stack((red, green, blue), dim=-1).clamp_(0, 1)


def _spread(
    chroma: Float[Tensor, "2 h2 w2"], *, height: int, width: int, centred: bool
) -> Float[Tensor, "2 h w"]:
    """Undo ``_share``: give every pixel a chroma value, by linear interpolation."""
    if chroma.shape[1] < height:
        chroma = F.interpolate(chroma[None], scale_factor=(2, 1), mode="bilinear")[0]
    if chroma.shape[2] < width and centred:
        chroma = F.interpolate(chroma[None], scale_factor=(1, 2), mode="bilinear")[0]
    elif chroma.shape[2] < width:
        after = torch.cat((chroma[..., 1:], chroma[..., -1:]), dim=-1)
        chroma = torch.stack((chroma, (chroma + after) / 2), dim=-1).flatten(-2)
    return chroma[:, :height, :width]


def _share(chroma: Float[Tensor, "h w"], *, rows: int) -> Float[Tensor, "h2 w2"]:
    """Halve the columns, and the rows if ``rows`` is 2, where H.264 puts the values by default.

    That is on the even columns (hence a filter of 1 2 1) and between two rows (hence their mean).
    """
    even, odd = chroma[:, 0::2], chroma[:, 1::2]
    before = torch.cat((chroma[:, :1], odd[:, :-1]), dim=1)
    chroma = (before + 2 * even + odd) / 4
    return chroma if rows == 1 else (chroma[0::2] + chroma[1::2]) / 2
