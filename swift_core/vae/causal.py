"""Causal convolutions over time, and what they remember between chunks.

A clip is worked through in chunks of frames. A convolution over time needs the last frames of the
chunk before; they are its tail. All tails together are the causal state, a ``TailCache``: made by
the caller for one clip, passed to every call, and never kept by a module. Tensors in it are
never written to, so ``clone`` costs nothing and a clip can be continued from any chunk.

Axes: ``b c t h w``, with ``t`` the frames of one chunk at the level at hand.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from ..shapes import Float, Tensor
from .convolve import convolve
from .parking import Berths, Parking


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of a feature map: ``first`` up to, but without, ``end``.

    They may reach over the picture's borders until ``within`` cuts them.
    """

    first: int
    end: int

    def grown(self, by: int) -> "Rows":
        """Give so many rows more on both sides."""
        return Rows(first=self.first - by, end=self.end + by)

    def aligned(self, multiple: int) -> "Rows":
        """Give whole groups of so many rows."""
        return Rows(
            first=self.first // multiple * multiple, end=-(-self.end // multiple) * multiple
        )

    def within(self, height: int) -> "Rows":
        """Cut at the picture's borders."""
        return Rows(first=max(0, self.first), end=min(height, self.end))


class CausalConv3d(nn.Conv3d):
    """Convolve over time and space; in time, only over what came before.

    Height and width are padded here; the frames before come from the ``TailCache``.
    """

    def __init__(
        self, in_dim: int, out_dim: int, kernel: tuple[int, int, int], *, time_stride: int = 1
    ) -> None:
        time, height, width = kernel
        super().__init__(
            in_dim,
            out_dim,
            kernel,
            stride=(time_stride, 1, 1),
            padding=(0, height // 2, width // 2),
        )
        self.history = time - time_stride

    def rows_read(self, rows: Rows) -> Rows:
        """Tell which rows of the input decide these rows of the output."""
        return rows.grown(self.kernel_size[1] // 2)

    def forward(self, input: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d u h w"]:  # noqa: A002 - torch's name
        """Convolve a chunk that ``TailCache.extend`` has put its history in front of."""
        return convolve(self, input)


class FrameConv2d(nn.Conv2d):
    """Convolve frames, by the same algorithm whatever their size."""

    def forward(self, input: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:  # noqa: A002 - torch's name
        """Convolve frames."""
        return convolve(self, input)


class TailCache:
    """Hold the causal state of one clip: for each convolution, the last frames it has read.

    It belongs to the caller, who passes it to each chunk's call in order; the call brings it
    forward. To continue later, or twice, from the same chunk, keep a ``clone``.
    """

    def __init__(self, berths: Berths | None = None) -> None:
        self._tails: dict[CausalConv3d, Tensor] = {}
        self._parts: dict[int, TailCache] = {}
        self._parking = Parking()
        self._berths = berths

    def part(self, number: int, *, parks: bool) -> "TailCache":
        """Give the state of one band of the clip; see ``bands``.

        Args:
            parks: whether its tails wait in host memory; the same in all calls.
        """
        if number not in self._parts:
            berths = Berths(parking=self._parking, part=number) if parks else None
            self._parts[number] = TailCache(berths)
        return self._parts[number]

    def __contains__(self, conv: CausalConv3d) -> bool:
        return conv in (self._tails if self._berths is None else self._berths)

    @property
    def is_new(self) -> bool:
        """Whether no chunk has been read yet."""
        return not (self._tails or self._parts)

    @property
    def nbytes(self) -> int:
        """Memory held by the tails that are not parked."""
        tails = sum(tail.nbytes for tail in self._tails.values())
        return tails + sum(part.nbytes for part in self._parts.values())

    @property
    def parked_nbytes(self) -> int:
        """Host memory held by the tails that are parked."""
        return self._parking.nbytes

    def clone(self) -> "TailCache":
        """Copy the state; what is not parked is shared, because nobody writes to it."""
        twin = TailCache()
        twin._tails, twin._parking = dict(self._tails), self._parking.clone()
        for number, part in self._parts.items():
            mine = twin.part(number, parks=part._berths is not None)
            mine._tails = dict(part._tails)
        return twin

    def extend(
        self, conv: CausalConv3d, chunk: Float[Tensor, "b c t h w"]
    ) -> Float[Tensor, "b c u h w"]:
        """Put the convolution's history in front of a chunk, and remember the new tail.

        A convolution that has read nothing yet has a history of zeros.
        """
        if not conv.history:
            return chunk
        if conv in self:
            chunk = torch.cat((self._take(conv, chunk.device), chunk), dim=2)
        else:
            chunk = F.pad(chunk, (0, 0, 0, 0, conv.history, 0))
        self.begin(conv, chunk)
        return chunk

    def begin(self, conv: CausalConv3d, frames: Float[Tensor, "b c t h w"]) -> None:
        """Remember the last of these frames, without convolving them."""
        # A copy: a view would keep the whole chunk alive until the next one.
        tail = frames[:, :, -conv.history :].clone()
        if self._berths is None:
            self._tails[conv] = tail
        else:
            self._berths.keep(conv, tail)

    def _take(self, conv: CausalConv3d, device: torch.device) -> Tensor:
        """Give a tail that is not wanted any more after this."""
        if self._berths is None:
            return self._tails.pop(conv)
        return self._berths.take(conv, device)


class CausalModule(nn.Module):
    """A module that reads the causal state and brings it forward."""

    def forward(
        self, features: Float[Tensor, "b c t h w"], cache: TailCache
    ) -> Float[Tensor, "b d u i j"]:
        """Transform one chunk."""
        raise NotImplementedError

    def rows_read(self, rows: Rows) -> Rows:
        """Tell which rows of the input decide these rows of the output.

        Only local modules can tell; attention reads all.
        """
        raise NotImplementedError


class CausalStack(CausalModule, nn.ModuleList):
    """Layers in a row, numbered as in Wan's checkpoints; whoever needs the state gets it."""

    def forward(
        self, features: Float[Tensor, "b c t h w"], cache: TailCache
    ) -> Float[Tensor, "b d u i j"]:
        """Apply the layers in turn."""
        return run_layers(self, features, cache)

    def rows_read(self, rows: Rows) -> Rows:
        """Ask the layers from the last to the first."""
        return rows_read(list(self), rows)


def run_layers(
    layers: Iterable[nn.Module], features: Float[Tensor, "b c t h w"], cache: TailCache
) -> Float[Tensor, "b d u i j"]:
    """Apply layers in turn."""
    for layer in layers:
        if isinstance(layer, CausalConv3d):
            # Two statements: the chunk without history is freed before the convolution.
            features = cache.extend(layer, features)
            features = layer(features)
        elif isinstance(layer, CausalModule):
            features = layer(features, cache)
        else:
            features = layer(features)
    return features


def rows_read(layers: Sequence[nn.Module], rows: Rows) -> Rows:
    """Tell which rows of the first layer's input decide these rows of the last one's output."""
    for layer in reversed(layers):
        # All others, norms and activations, see one pixel.
        if isinstance(layer, CausalConv3d | CausalModule):
            rows = layer.rows_read(rows)
    return rows
