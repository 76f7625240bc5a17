"""Shape annotations that are checked under pytest and cost nothing at a user's site.

With jaxtyping installed (development) ``Float[Tensor, "b c t h w"]`` is a claim that the test run
checks on every call. Without it the same expression is plain ``Tensor``.

Axes used throughout: ``b`` batch, ``c`` channels, ``t`` latent frames, ``p`` pixel frames,
``h w`` height and width (of a latent or in pixels, as the name says; ``i j`` for the latent where
both occur), ``s`` tokens, ``d`` features.
"""

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped, UInt8
else:
    try:
        from jaxtyping import Bool, Float, Int, Shaped, UInt8
    except ImportError:

        class _Unchecked:
            """Stand in for a jaxtyping kind: ``Kind[Array, axes]`` is ``Array``."""

            def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
                return item[0]

        Bool = Float = Int = Shaped = UInt8 = _Unchecked

__all__ = ["Bool", "Float", "Int", "Shaped", "Tensor", "UInt8"]
