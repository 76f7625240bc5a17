"""The Wan DiT: latent frames with a noise level each, in; their velocity, out.

One class serves TI2V-5B (48 channels in), its 96-channel form with a concatenated reference, and
I2V-A14B (36 in, 16 out). Parameter names are those of the original checkpoints.

It computes in the number format of the latent it is given, on that latent's device, and returns
fp32. ``FP32_ISLANDS`` names the parameters that must be fp32 whatever the rest is.

Axes: ``b c t h w`` latent; tokens are ``"b t s d"``, ``s`` tokens in each of ``t`` latent frames.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import GeometryError, PromptError
from ..shapes import Bool, Float, Tensor
from .attention import KeyValue
from .blocks import BlockSource, DiTBlock, Head
from .config import DiTConfig
from .modulation import timestep_sinusoids
from .patches import fold_patches, unfold_patches
from .rope import Rope, make_rope

FP32_ISLANDS = (
    "time_embedding",
    "time_projection",
    "modulation",
    "norm_q",
    "norm_k",
    "norm3",
    "head",
)
"""Parts of parameter names that mark fp32 parameters: noise levels, norms and the way out."""


class PromptKeys(NamedTuple):
    """A prompt as the DiT needs it: keys and values for the cross-attention of each DiT block."""

    dit_blocks: tuple[KeyValue, ...]


class ContextKeys(NamedTuple):
    """Clean latent frames as later ones see them: keys and values for each DiT block."""

    dit_blocks: tuple[KeyValue, ...]


class _Entry(NamedTuple):
    """What the first DiT block takes, and the head: tokens, noise levels, positions."""

    tokens: Tensor
    time: Tensor
    time_modulation: Tensor
    rope: Rope


class WanDiT(nn.Module):
    """Predict the velocity (noise minus clean) of latent frames.

    Source: Wan-Video/Wan2.2@42bf4cf:wan/modules/model.py. Oracle: tests/oracle/test_dit.py.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        dim, patch = config.dim, config.patch
        kernel = (patch.time, patch.height, patch.width)
        self.patch_embedding = nn.Conv3d(config.in_channels, dim, kernel, stride=kernel)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(config.frequency_dim, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.layers))
        self.head = Head(config)
        self.stream: BlockSource | None = None

    def read_prompt(self, text: Float[Tensor, "b l e"]) -> PromptKeys:
        """Compute once what every step and segment needs of the prompt.

        The text is padded with zeros to ``config.text_tokens`` before it is embedded, and the
        padding is attended: the models were trained so.

        Args:
            text: embedding of the prompt, in the compute format.

        Raises:
            PromptError: if the text is too long or of the wrong width.
        """
        length, width = text.shape[1:]
        if width != self.config.text_dim or length > self.config.text_tokens:
            raise PromptError(
                f"a text embedding of {length} tokens, {width} wide, does not fit a DiT that takes "
                f"up to {self.config.text_tokens} tokens, {self.config.text_dim} wide; use the "
                "text encoder that belongs to it."
            )
        text = F.pad(text, (0, 0, 0, self.config.text_tokens - length))
        embedded = self.text_embedding(text)
        return PromptKeys(tuple(block.cross_attn.read(embedded) for block in self._dit_blocks()))

    def read_context(
        self,
        latent: Float[Tensor, "b c t h w"],
        prompt: PromptKeys,
        *,
        positions: Sequence[int],
    ) -> ContextKeys:
        """Compute once what targets may see of clean frames that do not look back at them.

        Args:
            latent: clean frames, channels complete; they are read at timestep 0.
            positions: their places in time.
        """
        timestep = torch.zeros(latent.shape[0], latent.shape[2])
        entry = self._enter(latent, timestep, positions)
        tokens, keys = entry.tokens, list[KeyValue]()
        for block, words in zip(self._dit_blocks(), prompt.dit_blocks, strict=True):
            tokens, own = block(tokens, entry.time_modulation, rope=entry.rope, prompt=words)
            keys.append(own)
        return ContextKeys(tuple(keys))

    def forward(
        self,
        latent: Float[Tensor, "b c t h w"],
        timestep: Float[Tensor, "b t"],
        prompt: PromptKeys,
        *,
        positions: Sequence[int],
        context: ContextKeys | None = None,
        visible: Bool[Tensor, "t t"] | None = None,
    ) -> Float[Tensor, "b out t h w"]:
        """Predict the velocity of every latent frame.

        Args:
            latent: frames to look at, all input channels; its format is the compute format.
            timestep: 1000 * sigma of each frame, best kept on the CPU; 0 for clean ones.
            prompt: from ``read_prompt``.
            positions: place in time of each frame, for RoPE.
            context: from ``read_context``: frames that are seen but do not see.
            visible: True where the frame of the row may attend to the frame of the column; the
                slow twin of ``context``, and None for all to all.

        Raises:
            GeometryError: if the latent's shape and the other arguments do not fit the model.
        """
        entry = self._enter(latent, timestep, positions)
        tokens = entry.tokens
        mask = None if visible is None else _token_mask(visible, tokens.shape[2])
        for index, block in enumerate(self._dit_blocks()):
            # Not unpacked: a name for the keys would keep them alive through the next DiT block.
            tokens = block(
                tokens,
                entry.time_modulation,
                rope=entry.rope,
                prompt=prompt.dit_blocks[index],
                context=None if context is None else context.dit_blocks[index],
                mask=mask,
            )[0]
        patches = self.head(tokens, entry.time)
        return unfold_patches(patches, self.config.patch, height=latent.shape[3])

    def _enter(
        self,
        latent: Float[Tensor, "b c t h w"],
        timestep: Float[Tensor, "b t"],
        positions: Sequence[int],
    ) -> "_Entry":
        """Turn the latent and its noise levels into what the DiT blocks take."""
        self._check(latent, positions)
        sinusoids = timestep_sinusoids(timestep, self.config.frequency_dim)
        time = self.time_embedding(sinusoids.to(latent.device, non_blocking=True))
        return _Entry(
            tokens=self._patchify(latent),
            time=time,
            time_modulation=self.time_projection(time).unflatten(-1, (6, -1)),
            rope=make_rope(
                self.config,
                positions,
                height=latent.shape[3] // self.config.patch.height,
                width=latent.shape[4] // self.config.patch.width,
                device=latent.device,
            ),
        )

    def _patchify(self, latent: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b t s d"]:
        """Embed patches; a linear layer on folded pixels is the strided convolution, but faster."""
        folded = fold_patches(latent, self.config.patch)
        return F.linear(folded, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)

    def _dit_blocks(self) -> Iterable[DiTBlock]:
        if self.stream is not None:
            return self.stream.walk()
        return self.blocks  # pyright: ignore[reportReturnType]  (a ModuleList of DiTBlock)

    def _check(self, latent: Tensor, positions: Sequence[int]) -> None:
        channels, frames, height, width = latent.shape[1:]
        patch = self.config.patch
        if channels != self.config.in_channels:
            raise GeometryError(
                f"the DiT takes {self.config.in_channels} channels, but the latent has {channels}."
            )
        if height % patch.height or width % patch.width:
            raise GeometryError(
                f"a latent of {width}x{height} does not divide into the DiT's patches of "
                f"{patch.width}x{patch.height}."
            )
        if len(positions) != frames:
            raise GeometryError(f"{len(positions)} positions were given for {frames} frames.")


def _token_mask(visible: Bool[Tensor, "t t"], tokens_per_frame: int) -> Bool[Tensor, "q k"]:
    """Widen a mask over frames to one over tokens."""
    return visible.repeat_interleave(tokens_per_frame, 0).repeat_interleave(tokens_per_frame, 1)
