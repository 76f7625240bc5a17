"""Between clips and latents: the VAEs as streams of chunks.

A clip is ``"p h w 3"`` in [0, 1] on the CPU (ComfyUI's IMAGE batch), and so is a latent; a VAE
works on ``"1 3 p h w"`` in [-1, 1] on the device. A chunk is 1 pixel frame, then ``time`` each.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from einops import rearrange

from ..errors import BudgetError, MediaError
from ..geometry import PixelShape, latent_frames_of, pixel_frames_of
from ..memory.fetching import fetch
from ..memory.host import free_host_nbytes
from ..progress import Phase, observed
from ..shapes import Float, Tensor
from ..shortage import attempt
from ..vae.autoencoder import WanVAE
from ..vae.bands import WHOLE, Banding
from ..vae.config import VAEConfig
from ..vae.memory import VaePlan, finer, finest, plan_decode, plan_encode
from .runtime import Runtime

_log = logging.getLogger(__name__)

Planner = Callable[..., VaePlan]


def _makes_no_room() -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class Arriving:
    """A latent that is decoded while it is being made.

    Attributes:
        begin: begins a wait for it: for each number that this gives, so many frames of it are
            there, and are decoded and given before the next is asked for.
        hurry: asked when not even the finest bands fit: has all of it made, so that what makes it
            can leave the device; False if all of it was there.
    """

    begin: Callable[[], Iterator[int]]
    hurry: Callable[[], bool] = _makes_no_room


def to_pixels(clip: Float[Tensor, "p h w 3"], runtime: Runtime) -> Float[Tensor, "1 3 p h w"]:
    """Bring frames to the VAE's form."""
    return runtime.place(rearrange(clip, "p h w c -> 1 c p h w") * 2 - 1)


def to_frames(pixels: Float[Tensor, "1 3 p h w"]) -> Float[Tensor, "p h w 3"]:
    """Bring a VAE's pixels to a clip's order, where they are and as they are."""
    return rearrange(pixels, "1 c p h w -> p h w c").contiguous()


def to_clip(frames: Float[Tensor, "p h w 3"]) -> Float[Tensor, "p h w 3"]:
    """Bring a VAE's frames to a clip, in memory of its own."""
    return frames.to(torch.float32, copy=True).add_(1).div_(2).clamp_(0, 1)


def encode_clip(
    vae: WanVAE,
    chunks: Callable[[], Iterable[Float[Tensor, "1 3 p h w"]]],
    *,
    shape: PixelShape,
    phase: Phase,
    runtime: Runtime,
) -> Float[Tensor, "1 c t h w"]:
    """Encode a stream of pixel chunks into a latent, fp32, in host memory, allocated once.

    Where memory runs out all the same, it begins again with finer bands; the latent is the
    same, to rounding.

    Args:
        chunks: begins the stream; it is asked again where the encode begins again.
        shape: of all chunks together.

    Raises:
        BudgetError: if the runtime's memory is too small for it.
    """
    latent_frames = latent_frames_of(shape.pixel_frames, time=vae.config.compression.time)

    def begin(banding: Banding) -> Iterator[Tensor]:
        return fetch(vae.encode_stream(chunks(), banding=banding))

    stream = _steady(begin, _banding(plan_encode, vae, shape, runtime), vae.config)
    stream = observed(stream, phase=phase, steps=latent_frames, observe=runtime.observe)
    latent: Tensor | None = None
    filled = 0
    for index, frame in enumerate(stream):
        if latent is None:
            _, channels, _, height, width = frame.shape
            latent = torch.empty((1, channels, latent_frames, height, width))
        latent[:, :, index] = frame[:, :, 0]
        filled = index + 1
    if latent is None or filled != latent_frames:
        raise MediaError(
            f"the clip ended after {pixel_frames_of(filled, time=vae.config.compression.time)} of "
            f"{shape.pixel_frames} frames; was its file changed meanwhile?"
        )
    return latent


def decode_clip(
    vae: WanVAE,
    latent: Float[Tensor, "1 c t h w"],
    *,
    phase: Phase,
    runtime: Runtime,
    banding: Banding | None = None,
    arriving: Arriving | None = None,
) -> Iterator[Float[Tensor, "p h w 3"]]:
    """Decode a latent as a stream of clips of 1, then 4 frames each, in order.

    Where memory runs out all the same, it begins again with finer bands; what has been given is
    not given twice, and the frames are the same.

    Args:
        latent: anywhere; a frame at a time is brought to the device.
        banding: None: as few bands as fit.
        arriving: how it comes, if not all of it is there.

    Raises:
        BudgetError: if the runtime's memory is too small for it.
    """
    size, steps = vae.config.compression, latent.shape[2]
    coming = arriving or Arriving(begin=lambda: iter((steps,)))
    shape = PixelShape(
        pixel_frames=pixel_frames_of(steps, time=size.time),
        height=size.space * latent.shape[3],
        width=size.space * latent.shape[4],
    )

    def frames() -> Iterator[Float[Tensor, "1 c 1 h w"]]:
        for index in range(steps):
            yield runtime.place(latent[:, :, index : index + 1])

    def begin(banding: Banding) -> Iterator[Tensor]:
        # They come in the VAE's own numbers, of 16 bits on a card: half of what is to be locked.
        made = map(to_frames, vae.decode_frames(frames(), banding=banding))
        done = 0
        for there in coming.begin():
            yield from map(to_clip, fetch(islice(made, there - done)))
            done = there

    first = banding or _banding(plan_decode, vae, shape, runtime)
    stream = _steady(begin, first, vae.config, coming.hurry)
    yield from observed(stream, phase=phase, steps=steps, observe=runtime.observe)


def _steady(
    begin: Callable[[Banding], Iterator[Tensor]],
    first: Banding,
    config: VAEConfig,
    make_room: Callable[[], bool] = _makes_no_room,
) -> Iterator[Tensor]:
    """Give what a stream gives; out of memory, begin it again with finer bands.

    If there are none, and something else makes room, it begins with the first bands again.

    What has been given is worked out once more, because each band has a state of its own, but not
    given twice.
    """
    given, banding = 0, first
    stream = begin(banding)
    while True:
        tried = attempt(partial(next, stream, None))
        if tried.shortage is None:
            if tried.made is None:
                return
            given += 1
            yield tried.made
            continue
        less = finer(banding, config)
        if less is None and make_room():
            less = first
        if less is None:
            raise tried.shortage
        _log.warning("out of memory after %d chunks: going on with %s", given, less)
        banding = less
        stream = islice(begin(banding), given, None)


def _banding(plan: Planner, vae: WanVAE, shape: PixelShape, runtime: Runtime) -> Banding:
    """Choose bands by the memory that there is."""
    if runtime.free_nbytes is not None:
        room = runtime.free_nbytes()
    elif runtime.budget_nbytes is not None:
        room = runtime.budget_nbytes() - sum(parameter.nbytes for parameter in vae.parameters())
    else:
        return WHOLE
    choose = partial(plan, vae.config, shape, compute=runtime.precision.compute, budget_nbytes=room)
    with suppress(BudgetError):
        return choose(host_nbytes=free_host_nbytes()).banding
    try:
        banding = choose().banding
    except BudgetError as error:
        if not runtime.is_under_way:
            raise
        _log.warning("%s; trying the finest bands", error)
        return finest(vae.config)
    _log.warning("little host memory is free: parking the VAE's state may be slow")
    return banding
