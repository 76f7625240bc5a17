"""Laws of the causal state and of the shortcuts, for any chunks and widths."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from swift_core.geometry import PixelShape
from swift_core.vae.blocks import add_duplicates, average_down
from swift_core.vae.causal import CausalConv3d, TailCache
from swift_core.vae.config import WAN22_VAE, Level
from swift_core.vae.work import vae_work


@settings(deadline=None, max_examples=30)
@given(
    chunks=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    kernel=st.sampled_from([(1, 1, 1), (2, 1, 1), (3, 1, 1), (3, 3, 3)]),
)
def test_any_chunks_make_the_convolution_of_the_whole(chunks, kernel):
    torch.manual_seed(0)
    conv = CausalConv3d(2, 3, kernel).requires_grad_(False)
    whole = torch.randn(2, 2, sum(chunks), 3, 4)
    cache = TailCache()
    parts = [conv(cache.extend(conv, chunk)) for chunk in whole.split(chunks, dim=2)]
    padded = F.pad(whole, (0, 0, 0, 0, kernel[0] - 1, 0))
    expected = F.conv3d(padded, conv.weight, conv.bias, padding=conv.padding)
    torch.testing.assert_close(torch.cat(parts, dim=2), expected, atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=30)
@given(frames=st.lists(st.sampled_from([2, 4, 6]), min_size=1, max_size=4))
def test_any_even_chunks_make_the_halving_of_the_whole(frames):
    """Halving time: the first frame alone is the history of all that follows."""
    torch.manual_seed(0)
    conv = CausalConv3d(2, 2, (3, 1, 1), time_stride=2).requires_grad_(False)
    whole = torch.randn(1, 2, 1 + sum(frames), 3, 4)
    cache = TailCache()
    first, *chunks = whole.split([1, *frames], dim=2)
    cache.begin(conv, first)
    parts = [conv(cache.extend(conv, chunk)) for chunk in chunks]
    expected = F.conv3d(whole, conv.weight, conv.bias, stride=(2, 1, 1))
    torch.testing.assert_close(torch.cat(parts, dim=2), expected, atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=30)
@given(
    widths=st.sampled_from([(8, 8), (16, 8), (32, 8)]),
    time=st.sampled_from([1, 2]),
    frames=st.integers(1, 3),
)
def test_averaging_undoes_duplicating(widths, time, frames):
    """The two shortcuts order channels alike, so a detour through finer values is free."""
    torch.manual_seed(0)
    coarse, fine = widths
    up = Level(in_dim=coarse, dim=fine, out_dim=fine, blocks=1, time=time, space=2)
    down = Level(in_dim=fine, dim=coarse, out_dim=coarse, blocks=1, time=time, space=2)
    features = torch.randn(1, coarse, frames, 3, 2)
    finer = torch.zeros(1, fine, frames * time, 6, 4)
    add_duplicates(finer, features, up)
    torch.testing.assert_close(average_down(finer, down), features)


@given(chunks=st.integers(1, 60), height=st.integers(1, 20), width=st.integers(1, 20))
def test_every_chunk_but_the_first_is_the_same_work(chunks, height, width):
    def work(latent_frames):
        pixel_frames = 4 * (latent_frames - 1) + 1
        size = PixelShape(pixel_frames=pixel_frames, height=16 * height, width=16 * width)
        return vae_work(WAN22_VAE, size)

    one, two, many = work(1), work(2), work(chunks)
    later = two.decode_flops - one.decode_flops
    assert many.decode_flops == one.decode_flops + (chunks - 1) * later
    later = two.encode_flops - one.encode_flops
    assert many.encode_flops == one.encode_flops + (chunks - 1) * later
