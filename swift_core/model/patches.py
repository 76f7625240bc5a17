"""Patches: how latent values become the features of a token, and how they come out again.

Going in, a patch's values are ordered channel first, as the strided convolution of Wan's patch
embedding reads them; coming out, channel last, as Wan's head writes them.
"""

from einops import rearrange

from ..geometry import Patch
from ..shapes import Float, Tensor


def fold_patches(
    latent: Float[Tensor, "b c t h w"], patch: Patch
) -> Float[Tensor, "b t s features"]:
    """Cut each latent frame into patches, rows first; features are ordered (c, row, column)."""
    return rearrange(
        latent, "b c t (h p) (w q) -> b t (h w) (c p q)", p=patch.height, q=patch.width
    )


def unfold_patches(
    patches: Float[Tensor, "b t s features"], patch: Patch, *, height: int
) -> Float[Tensor, "b c t h w"]:
    """Lay patches out as latent frames; features are ordered (row, column, c).

    Args:
        height: of a latent frame.
    """
    return rearrange(
        patches,
        "b t (h w) (p q c) -> b c t (h p) (w q)",
        h=height // patch.height,
        p=patch.height,
        q=patch.width,
    )
