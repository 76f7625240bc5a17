import torch
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st

from swift_core.geometry import LatentShape, Patch
from swift_core.model.patches import fold_patches, unfold_patches

sides = st.integers(1, 5)


@given(sides, sides, sides, sides, st.integers(1, 3), st.integers(1, 3))
def test_patches_there_and_back(channels, latent_frames, rows, columns, tall, wide):
    patch = Patch(time=1, height=tall, width=wide)
    size = (2, channels, latent_frames, rows * tall, columns * wide)
    latent = torch.randn(size, generator=torch.Generator().manual_seed(0))
    folded = fold_patches(latent, patch)
    shape = LatentShape(
        channels=channels, latent_frames=latent_frames, height=size[3], width=size[4]
    )
    assert folded.shape == (2, latent_frames, shape.tokens_per_frame(patch), channels * tall * wide)
    assert torch.equal(folded[0, 0, 0, : tall * wide], latent[0, 0, 0, :tall, :wide].flatten())
    channel_last = rearrange(folded, "b t s (c p q) -> b t s (p q c)", p=tall, q=wide)
    assert torch.equal(unfold_patches(channel_last, patch, height=size[3]), latent)
