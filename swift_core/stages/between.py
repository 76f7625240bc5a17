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
from .pixels import decode_clip
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
    finished = 0

    def sample() -> None:
        nonlocal finished
        finished = _next(refining).targets[-1] + 1
        if finished == latent.shape[2]:
            deque(refining, maxlen=0)  # lets go of the DiT
            keep(latent)

    def arriving() -> Iterator[int]:
        yield finished
        while finished < latent.shape[2]:
            sample()
            yield finished

    def sample_all() -> bool:
        if finished == latent.shape[2]:
            return False
        _log.warning("out of memory beside Stage II: decoding when all segments are sampled")
        while finished < latent.shape[2]:
            sample()
        return True

    sample()  # so that the DiT is there, and has its memory, before the VAE
    load = partial(runtime.load, vae)
    loading = attempt(load)
    if loading.shortage is not None and not sample_all():
        raise loading.shortage
    yield from decode_clip(
        load() if loading.made is None else loading.made,
        latent,
        phase=Phase.DECODE,
        runtime=runtime,
        banding=between.banding,
        arriving=arriving,
        make_room=sample_all,
    )


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
