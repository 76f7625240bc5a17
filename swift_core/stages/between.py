"""Decoding between the segments: what is finished is on its way while the rest is sampled."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

from ..errors import BudgetError
from ..progress import Phase
from ..segments.plan import Segment
from ..shapes import Float, Tensor
from ..shortage import attempt, is_shortage
from ..vae.autoencoder import WanVAE
from ..vae.config import VAEConfig
from ..weights.slots import Slot
from .memory import Between
from .pixels import Arriving, decode_clip
from .runtime import Runtime

_log = logging.getLogger(__name__)


def decode_between(
    vae: Slot[VAEConfig, WanVAE],
    latent: Float[Tensor, "1 c t h w"],
    refining: Iterator[Segment],
    between: Between,
    *,
    keep: Callable[[Tensor], None],
    runtime: Runtime,
) -> Iterator[Float[Tensor, "p h w 3"]]:
    """Decode each segment as soon as it is finished, beside the DiT that samples the next one.

    Where there is no memory for both after all, what is left is sampled first.

    Args:
        latent: what ``refining`` writes into.
        refining: samples a segment each time that it is asked.
        keep: handed the latent as soon as it is whole.
    """
    work = _Refining(latent, refining, keep)
    work.sample()  # so that the DiT is there, and has its memory, before the VAE
    yield from decode_clip(
        _load_beside(partial(runtime.load, vae), work),
        latent,
        phase=Phase.DECODE,
        runtime=runtime,
        banding=between.banding,
        arriving=Arriving(begin=work.arriving, hurry=work.sample_all),
    )


def _load_beside(load: Callable[[], WanVAE], work: "_Refining") -> WanVAE:
    """Load the VAE beside the DiT, or where there is no memory for both, after it."""
    tried = attempt(load)
    if tried.shortage is not None and not work.sample_all():
        raise tried.shortage
    return load() if tried.made is None else tried.made


class _Refining:
    """Stage II, which goes on when more of its latent is wanted."""

    def __init__(
        self, latent: Tensor, refining: Iterator[Segment], keep: Callable[[Tensor], None]
    ) -> None:
        self._latent = latent
        self._refining = refining
        self._keep = keep
        self._finished = 0

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left to sample."""
        return self._finished == self._latent.shape[2]

    def sample(self) -> None:
        """Sample one more segment; after the last one the DiT is let go of."""
        self._finished = _next(self._refining).targets[-1] + 1
        if self.is_whole:
            deque(self._refining, maxlen=0)
            self._keep(self._latent)

    def sample_all(self) -> bool:
        """Sample what is left; False if nothing is."""
        if self.is_whole:
            return False
        _log.warning("out of memory beside Stage II: decoding when all segments are sampled")
        while not self.is_whole:
            self.sample()
        return True

    def arriving(self) -> Iterator[int]:
        """Tell how many frames are finished, and sample more of them when more are asked for."""
        yield self._finished
        while not self.is_whole:
            self.sample()
            yield self._finished


def _next(refining: Iterator[Segment]) -> Segment:
    """Sample one more segment.

    A shortage that streaming has not helped is not the decode's, which would try again.
    """
    try:
        return next(refining)
    except Exception as error:
        if not is_shortage(error):
            raise
        raise BudgetError(
            "memory ran out in Stage II with all of its blocks streamed; free memory of the card, "
            "or make the video smaller or its segments shorter."
        ) from error
