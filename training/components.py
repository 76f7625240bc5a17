"""Principal components of clips: of frames, of pairs of frames, and of quads, which are two pairs.

What belongs to one place, a patch of pixels, is taken together; neighbours come in with ``Fit``,
plain least squares over batches.

Axes: ``b p i j c`` clips as patches: ``i j`` places, ``c`` the pixels of one.
"""

import math
from dataclasses import dataclass

import torch
from einops import rearrange

from swift_core.shapes import Float, Tensor
from swift_core.vae.config import VAEConfig

LEVELLING = 0.5
"""Components are divided by this power of their deviation, so that fine ones are heard too."""

RIDGE = 1e-6
"""Of least squares, as a share of the mean power of what is fitted from."""


def fold_patches(clip: Float[Tensor, "b 3 p h w"], patch: int) -> Float[Tensor, "b p i j c"]:
    """Fold pixels into channels as the VAE does."""
    return rearrange(clip, "b c p (h q) (w r) -> b p h w (c r q)", q=patch, r=patch)


@dataclass(frozen=True, kw_only=True)
class Codec:
    """What was computed from clips.

    Attributes:
        mean: of a patch.
        basis: components of a frame, in columns, as many as the wider side has room for.
        scales: factor of each component in the features.
        pairs: the encoder's components of a pair, in rows, from those of two frames.
        quads: the same of a quad, from two pairs; the first ones are the latent.
        unquad: components of two pairs, in rows, from the latent.
        unpair: components of two frames, in rows, from a pair's that ``unquad`` gave.
        spread: deviation of each latent channel before it is brought to 1.
    """

    mean: Float[Tensor, " c"]
    basis: Float[Tensor, "c n"]
    scales: Float[Tensor, " n"]
    pairs: Float[Tensor, "m twice_m"]
    quads: Float[Tensor, "m twice_m"]
    unquad: Float[Tensor, "twice_n k"]
    unpair: Float[Tensor, "twice_n n"]
    spread: Float[Tensor, " k"]


def fit_codec(config: VAEConfig, frames: list[Float[Tensor, "b p i j c"]]) -> Codec:
    """Compute the codec of some clips, all of one size and of ``4n + 1`` frames."""
    patches = torch.cat([each.reshape(-1, each.shape[-1]) for each in frames])
    mean = patches.mean(0)
    narrow, wide = config.encoder_dim - 1, config.decoder_dim - 1
    count, latent = max(narrow, wide), config.latent_channels
    basis = _principal(_second_moment(patches - mean))[:count].T
    components = torch.cat([(each - mean) @ basis for each in frames])
    scales = components.square().mean((0, 1, 2, 3)).pow(-LEVELLING / 2)
    two = _neighbours(components[:, 1:, ..., :narrow])
    pairs = _aligned(_second_moment(two), keep=narrow)
    four = _neighbours(two @ pairs.T)
    quads = _aligned(_second_moment(four), keep=latent)
    later = four @ quads[:latent].T
    first = 2 * components[:, :1, ..., :latent]
    # The way back knows more components of a frame than the latent does.
    wide_two = _neighbours(components[:, 1:, ..., :wide])
    wide_pairs = _aligned(_second_moment(wide_two), keep=wide)
    unquad = _least_squares(later, _neighbours(wide_two @ wide_pairs.T)).T
    found = (later @ unquad.T).unflatten(-1, (2, wide))
    sought = wide_two.unflatten(1, (-1, 2)).movedim(2, -2)
    return Codec(
        mean=mean,
        basis=basis,
        scales=scales,
        pairs=pairs,
        quads=quads,
        unquad=unquad,
        unpair=_least_squares(found, sought).T,
        spread=torch.cat((first, later), dim=1).std((0, 1, 2, 3)),
    )


def _second_moment(rows: Float[Tensor, "*b c"]) -> Float[Tensor, "c c"]:
    """Give the mean of the outer products of rows."""
    flat = rows.flatten(0, -2).double()
    return flat.T @ flat / len(flat)


def _principal(moment: Float[Tensor, "c c"]) -> Float[Tensor, "c c"]:
    """Give the principal components in rows, the strongest first."""
    return torch.linalg.eigh(moment).eigenvectors.flip(1).T.float()


def _neighbours(frames: Float[Tensor, "b t i j c"]) -> Float[Tensor, "b u i j d"]:
    """Put each two frames' channels together."""
    return rearrange(frames, "b (u two) i j c -> b u i j (two c)", two=2)


def _aligned(moment: Float[Tensor, "twice_c twice_c"], *, keep: int) -> Float[Tensor, "c twice_c"]:
    """Give principal components of two frames, turned towards those of a still clip.

    Args:
        keep: how many are turned, among themselves: together they are the strongest.
    """
    half = len(moment) // 2
    strongest = _principal(moment)[:half]
    still = torch.eye(half).repeat(1, 2)[:keep] / math.sqrt(2)
    left, _, right = torch.linalg.svd(still @ moment.float() @ strongest[:keep].T)
    return torch.cat(((left @ right) @ strongest[:keep], strongest[keep:]))


def _least_squares(
    given: Float[Tensor, "*b c"], wanted: Float[Tensor, "*b d"]
) -> Float[Tensor, "c d"]:
    """Find the matrix that brings one to the other."""
    given, wanted = given.flatten(0, -2).double(), wanted.flatten(0, -2).double()
    return _solve(given.T @ given, given.T @ wanted)


def _solve(moment: Float[Tensor, "c c"], cross: Float[Tensor, "c d"]) -> Float[Tensor, "c d"]:
    """Solve normal equations."""
    ridge = RIDGE * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype)
    return torch.linalg.solve(moment + ridge, cross).float()


def codec_latent(codec: Codec, patches: Float[Tensor, "b p i j c"]) -> Float[Tensor, "b t i j k"]:
    """Work the codec's latents out, each channel of deviation 1."""
    narrow, latent = len(codec.pairs), len(codec.spread)
    components = ((patches - codec.mean) @ codec.basis)[..., :narrow]
    four = _neighbours(_neighbours(components[:, 1:]) @ codec.pairs.T)
    first, later = 2 * components[:, :1, ..., :latent], four @ codec.quads[:latent].T
    return torch.cat((first, later), dim=1) / codec.spread


class Fit:
    """Least squares with a constant, over batches."""

    def __init__(self) -> None:
        self._moment: Tensor | float = 0.0
        self._cross: Tensor | float = 0.0

    def add(self, given: Float[Tensor, "*b c"], wanted: Float[Tensor, "*b d"]) -> None:
        """Take a batch into account."""
        flat = given.flatten(0, -2)
        flat = torch.cat((flat, flat.new_ones(len(flat), 1)), dim=1).double()
        self._moment = self._moment + flat.T @ flat
        self._cross = self._cross + flat.T @ wanted.flatten(0, -2).double()

    def solve(self) -> Float[Tensor, "c_and_1 d"]:
        """Find the matrix; its last row is the constant's."""
        assert isinstance(self._moment, Tensor), "nothing was added"
        assert isinstance(self._cross, Tensor), "nothing was added"
        return _solve(self._moment, self._cross)
