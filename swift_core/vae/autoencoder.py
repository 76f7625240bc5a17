"""The Wan VAEs: clips to normalised latents and back, whole or as streams of chunks.

One class serves Wan2.2's VAE (16x16x4, 48 channels) and Wan2.1's (8x8x4, 16 channels). Parameter
names are those of the original checkpoints, which load with ``strict=True``.

The first chunk is 1 pixel frame, every later one ``config.compression.time``; each makes one
latent frame, and each latent frame makes its chunk. What passes from chunk to chunk is a
``TailCache`` that the caller of ``encode_chunk`` or ``decode_chunk`` owns; everything else here is
built on those two, so a stream, a whole clip and a continued clip are equal bit for bit.

It computes in the number format of what it is given, on that device, and returns that format.
``FP32_ISLANDS`` names the parameters that gain from staying fp32. Gradients flow everywhere; a
caller that wants none says ``torch.no_grad()``.

Axes: ``b 3 p h w`` pixels in [-1, 1]; ``b c t h w`` latent, normalised; ``raw_latent`` before that.
"""

from collections.abc import Iterable, Iterator

import torch
from einops import rearrange
from torch import nn

from ..errors import GeometryError
from ..geometry import LatentShape, PixelShape, pixel_frames_of
from ..shapes import Float, Tensor
from .bands import WHOLE, Banding
from .causal import CausalConv3d, TailCache
from .config import VAEConfig
from .decoder import Decoder
from .encoder import Encoder
from .layout import channels_last

FP32_ISLANDS = ("gamma",)
"""Parts of parameter names that mark parameters best kept in fp32: the norms' scales."""


class WanVAE(nn.Module):
    """Turn clips into normalised latents and back, chunk by chunk.

    After loading, ``layout.prepare`` lays the weights out as the convolutions read them.

    Source: Wan-Video/Wan2.2@42bf4cf:wan/modules/vae2_2.py and vae2_1.py.
    Oracle: tests/oracle/test_vae.py.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        moments = 2 * config.latent_channels
        self.encoder = Encoder(config)
        self.conv1 = CausalConv3d(moments, moments, (1, 1, 1))
        self.conv2 = CausalConv3d(config.latent_channels, config.latent_channels, (1, 1, 1))
        self.decoder = Decoder(config)

    def encode(
        self, pixels: Float[Tensor, "b rgb p h w"], *, banding: Banding = WHOLE
    ) -> Float[Tensor, "b c t i j"]:
        """Encode a whole clip: the posterior's mean, normalised.

        Args:
            pixels: in [-1, 1].
            banding: less memory at a time, the same result.

        Raises:
            GeometryError: if the clip has not 3 channels or does not fill whole latent values.
        """
        stream = self.encode_stream(self._chunks(pixels), banding=banding)
        return self._collect(pixels, stream, width=1)

    def encode_moments(
        self, pixels: Float[Tensor, "b rgb p h w"]
    ) -> tuple[Float[Tensor, "b c t i j"], Float[Tensor, "b c t i j"]]:
        """Encode a whole clip to its posterior: raw mean and raw logarithm of the variance.

        Raises:
            GeometryError: as ``encode``.
        """
        stream = self._moments_stream(self._chunks(pixels))
        mean, log_var = self._collect(pixels, stream, width=2).chunk(2, dim=1)
        return mean, log_var

    def encode_stream(
        self, chunks: Iterable[Float[Tensor, "b rgb _p _h _w"]], *, banding: Banding = WHOLE
    ) -> Iterator[Float[Tensor, "b c 1 i j"]]:
        """Encode chunks of 1, then ``time`` pixel frames, as they come; one latent frame each.

        Args:
            banding: less memory at a time, the same result.

        Raises:
            GeometryError: at a chunk of another length, of another size than the first, or of a
                size that does not fill whole latent values.
        """
        for moments in self._moments_stream(chunks, banding):
            yield self.normalize(moments.chunk(2, dim=1)[0])

    def encode_chunk(
        self,
        pixels: Float[Tensor, "b rgb p h w"],
        *,
        cache: TailCache,
        banding: Banding = WHOLE,
    ) -> Float[Tensor, "b c 1 i j"]:
        """Encode the next chunk of a clip to one normalised latent frame.

        Args:
            cache: the clip's state, owned by the caller and brought forward here; a new one
                begins a clip.
            banding: the same for all chunks of a clip.

        Raises:
            GeometryError: if the chunk has the wrong length or size.
        """
        return self.normalize(self._moments(pixels, cache, banding).chunk(2, dim=1)[0])

    def decode(
        self,
        latent: Float[Tensor, "b c t h w"],
        *,
        clamp: bool = True,
        banding: Banding = WHOLE,
    ) -> Float[Tensor, "b 3 p i j"]:
        """Decode a whole clip.

        Args:
            clamp: to [-1, 1]; a loss wants the values beyond, because a clamp has no gradient.
            banding: less memory at a time, the same result.

        Raises:
            GeometryError: if the latent has other channels than this VAE's, or no frame.
        """
        self._check_latent(latent)
        time, space = self.config.compression.time, self.config.compression.space
        batch, _, latent_frames, height, width = latent.shape
        pixels = latent.new_empty(
            batch, 3, pixel_frames_of(latent_frames, time=time), height * space, width * space
        )
        at = 0
        for chunk in self.decode_stream(latent, clamp=clamp, banding=banding):
            pixels[:, :, at : (at := at + chunk.shape[2])] = chunk
        return pixels

    def decode_stream(
        self,
        latent: Float[Tensor, "b c t h w"],
        *,
        clamp: bool = True,
        banding: Banding = WHOLE,
    ) -> Iterator[Float[Tensor, "b 3 p i j"]]:
        """Decode to chunks of 1, then ``time`` pixel frames, in order.

        Raises:
            GeometryError: as ``decode``.
        """
        self._check_latent(latent)
        frames = (latent[:, :, at : at + 1] for at in range(latent.shape[2]))
        return self.decode_frames(frames, clamp=clamp, banding=banding)

    def decode_frames(
        self,
        frames: Iterable[Float[Tensor, "b c 1 h w"]],
        *,
        clamp: bool = True,
        banding: Banding = WHOLE,
    ) -> Iterator[Float[Tensor, "b 3 p i j"]]:
        """Decode latent frames as they come; see ``decode_stream``."""
        cache = TailCache()
        for frame in frames:
            self._check_latent(frame)
            yield self.decode_chunk(frame, cache=cache, clamp=clamp, banding=banding)

    def decode_chunk(
        self,
        latent: Float[Tensor, "b c 1 h w"],
        *,
        cache: TailCache,
        clamp: bool = True,
        banding: Banding = WHOLE,
    ) -> Float[Tensor, "b 3 p i j"]:
        """Decode the next latent frame of a clip to its chunk of pixel frames.

        Args:
            cache: the clip's state, owned by the caller and brought forward here; a new one
                begins a clip.
            clamp: to [-1, 1].
            banding: the same for all chunks of a clip.
        """
        raw_latent = self.conv2(channels_last(self.denormalize(latent)))
        features = self.decoder(raw_latent, cache, banding)
        pixels = rearrange(
            features,
            "b (c r q) p h w -> b c p (h q) (w r)",
            q=self.config.patch,
            r=self.config.patch,
        )
        return pixels.clamp(-1, 1) if clamp else pixels

    def normalize(self, raw_latent: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        """Bring a raw latent to mean 0 and deviation 1, by the published statistics."""
        mean, std = self._statistics(raw_latent)
        return ((raw_latent - mean) / std).to(raw_latent.dtype)

    def denormalize(self, latent: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        """Undo ``normalize``."""
        mean, std = self._statistics(latent)
        return (latent * std + mean).to(latent.dtype)

    def _statistics(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        # Not buffers: a 16-bit cast of the model would round them, and meta building forget them.
        both = torch.tensor((self.config.latent_mean, self.config.latent_std), dtype=torch.float32)
        mean, std = both.to(latent.device, non_blocking=True)[..., None, None, None]
        return mean, std

    def _moments_stream(
        self, chunks: Iterable[Tensor], banding: Banding = WHOLE
    ) -> Iterator[Tensor]:
        cache = TailCache()
        size: str | None = None
        for pixels in chunks:
            own = f"{pixels.shape[4]}x{pixels.shape[3]}"
            size = size or own
            if own != size:
                raise GeometryError(
                    f"a chunk of {own} follows chunks of {size}: one clip has one size."
                )
            yield self._moments(pixels, cache, banding)

    def _moments(self, pixels: Tensor, cache: TailCache, banding: Banding) -> Tensor:
        """Encode a chunk to one frame of moments: raw mean, then raw log variance."""
        self._check_chunk(pixels, cache)
        features = rearrange(
            pixels,
            "b c p (h q) (w r) -> b p h w (c r q)",
            q=self.config.patch,
            r=self.config.patch,
        )
        features = channels_last(features.movedim(-1, 1))
        return self.conv1(self.encoder(features, cache, banding))

    def _chunks(self, pixels: Tensor) -> Iterator[Tensor]:
        """Cut a clip into its chunks."""
        time = self.config.compression.time
        yield pixels[:, :, :1]
        for at in range(1, pixels.shape[2], time):
            yield pixels[:, :, at : at + time]

    def _collect(self, pixels: Tensor, stream: Iterator[Tensor], *, width: int) -> Tensor:
        """Write a stream of latent frames into one tensor of ``width`` times their channels."""
        shape = self._check_pixels(pixels)
        latent = pixels.new_empty(
            len(pixels), width * shape.channels, shape.latent_frames, shape.height, shape.width
        )
        for index, frame in enumerate(stream):
            latent[:, :, index] = frame[:, :, 0]
        return latent

    def _check_pixels(self, pixels: Tensor) -> LatentShape:
        """Refuse a clip that this VAE cannot encode; give the size of its latent."""
        _, channels, pixel_frames, height, width = pixels.shape
        if channels != 3:
            raise GeometryError(
                f"the pixels have {channels} channels; the VAE encodes 3 (red, green, blue)."
            )
        shape = PixelShape(pixel_frames=pixel_frames, height=height, width=width)
        return shape.latent(self.config.compression, channels=self.config.latent_channels)

    def _check_chunk(self, pixels: Tensor, cache: TailCache) -> None:
        """Refuse a chunk that is not the clip's next one."""
        begun = not cache.is_new
        expected = self.config.compression.time if begun else 1
        if pixels.shape[2] != expected:
            raise GeometryError(
                f"the {'next' if begun else 'first'} chunk of a clip has {expected} pixel "
                f"frame{'s' if begun else ''}, but {pixels.shape[2]} came."
            )
        self._check_pixels(pixels[:, :, :1])

    def _check_latent(self, latent: Tensor) -> None:
        """Refuse a latent that is not this VAE's."""
        if latent.shape[1] != self.config.latent_channels:
            raise GeometryError(
                f"the latent has {latent.shape[1]} channels; this VAE decodes "
                f"{self.config.latent_channels}. Take the VAE that the latent was made for."
            )
        if not latent.shape[2]:
            raise GeometryError("the latent has 0 frames; at least 1 is needed.")
