"""What a VAE takes, before it takes it; and what happens when it is not there."""

from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import swift_core.stages.pixels as pixels
from swift_core.errors import BudgetError
from swift_core.geometry import PixelShape
from swift_core.live_bytes import LiveBytes, TensorsOnly
from swift_core.progress import Phase
from swift_core.stages.pixels import decode_clip, encode_clip
from swift_core.vae.bands import WHOLE, Banding
from swift_core.vae.causal import TailCache
from swift_core.vae.config import WAN22_VAE
from swift_core.vae.memory import (
    decode_peak,
    encode_peak,
    finer,
    plan_decode,
    plan_encode,
)
from tests.models import RUNTIME, small_vae

VAE = small_vae(encoder_dim=32, decoder_dim=32)
SHAPE = PixelShape(pixel_frames=9, height=160, width=48)
LATENT = torch.randn(1, 8, 3, 20, 6, generator=torch.Generator().manual_seed(0))
BANDINGS = (
    WHOLE,
    Banding(levels=2, bands=1, parks=True),
    Banding(levels=2, bands=3),
    Banding(levels=2, bands=4, parks=True),
    Banding(levels=3, bands=2, parks=True),
)


def measure(work):
    """Give what three chunks have alive at the most, beside the weights and what is parked.

    On the CPU a parked state stands in the same memory.
    """
    cache = TailCache()
    with torch.no_grad(), LiveBytes() as alive:
        for chunk in range(3):
            work(chunk, cache)
    return alive.peak - cache.parked_nbytes


@pytest.mark.parametrize("banding", BANDINGS, ids=str)
def test_the_prediction_is_what_is_measured(banding):
    def decode(_chunk, cache):
        latent = torch.zeros(1, 8, 1, 20, 6)
        VAE.decode_chunk(latent, cache=cache, banding=banding)

    def encode(chunk, cache):
        pixels = torch.zeros(1, 3, 4 if chunk else 1, 160, 48)
        VAE.encode_chunk(pixels, cache=cache, banding=banding)

    for work, peak_of in ((decode, decode_peak), (encode, encode_peak)):
        predicted = peak_of(VAE.config, 160, 48, torch.float32, banding)
        assert predicted.working_nbytes == pytest.approx(measure(work), rel=0.02)
    weights = sum(tensor.nbytes for tensor in VAE.parameters())
    assert predicted.weights_nbytes == weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_norm_without_arithmetic_makes_the_same_tensors(dtype):
    """The reference takes the norm apart, as PyTorch does on the CPU."""

    def peak(device, *modes):
        features = torch.empty(2, 8, 8, 256, device=device, dtype=dtype)
        with torch.no_grad(), ExitStack() as stack:
            alive = stack.enter_context(LiveBytes([features]))
            for mode in modes:
                stack.enter_context(mode)
            normed = F.rms_norm(features, (256,), eps=1e-6)
        assert (normed.shape, normed.dtype) == (features.shape, dtype)
        return alive.peak

    assert peak("meta", TensorsOnly()) == pytest.approx(peak("cpu"), rel=0.02)


def test_parking_brings_2k_into_a_small_card():
    """Whole, the causal state alone has 13 GB (numbers.md)."""
    shape = PixelShape(pixel_frames=81, height=1408, width=2560)

    def plan(gigabytes):
        budget = int(gigabytes * 1e9)
        return plan_decode(WAN22_VAE, shape, compute=torch.bfloat16, budget_nbytes=budget)

    whole = plan(80)
    assert whole.banding == WHOLE
    assert whole.peak.state_nbytes == pytest.approx(12.9e9, rel=0.01)
    small = plan(12.6)
    assert small.banding.parks
    assert small.peak.working_nbytes <= 12.6e9


def test_cheap_bands_come_first_and_none_is_said():
    two_levels = small_vae(dim_mult=(1, 1), temporal_downsample=(True,)).config

    def plan(what, nbytes, config=VAE.config):
        return what(config, SHAPE, compute=torch.float32, budget_nbytes=nbytes)

    whole = plan(plan_decode, 10**9)
    assert whole.banding == WHOLE
    parked = plan(plan_decode, whole.peak.working_nbytes - 1).banding
    assert (parked.bands, parked.parks) == (1, True), "bands without parking take more here"
    size = PixelShape(pixel_frames=9, height=320, width=96)
    room = {"compute": torch.float32, "budget_nbytes": 46_000_000}
    banded = plan_decode(VAE.config, size, **room).banding
    assert (banded.bands, banded.parks) == (2, False)
    with pytest.raises(BudgetError, match=r"decoding 48x160 takes at least 0\.0 GB, 0\.0 GB are"):
        plan(plan_decode, 1000, two_levels)
    with pytest.raises(BudgetError, match=r"encoding 48x160 takes at least"):
        plan(plan_encode, 1000, two_levels)


def test_finer_bands_end():
    banding, steps = WHOLE, []
    while (banding := finer(banding, WAN22_VAE)) is not None:
        steps.append(banding)
    assert steps[0] == Banding(levels=2, bands=2)
    assert steps[-1] == Banding(levels=4, bands=16, parks=True)
    assert len(steps) == len(set(steps)) < 20


def encode(runtime):
    pixels = torch.linspace(-1, 1, 3 * 9 * 160 * 48).view(1, 3, 9, 160, 48)

    def chunks():
        return iter(pixels.split([1, 4, 4], dim=2))

    return encode_clip(VAE, chunks, shape=SHAPE, phase=Phase.REFERENCE, runtime=runtime)


def test_a_budget_chooses_bands_and_the_frames_are_the_same():
    tight = decode_peak(VAE.config, 160, 48, torch.float32, WHOLE).working_nbytes - 1
    runtime = replace(RUNTIME, free_nbytes=lambda: tight)
    made = torch.cat(list(decode_clip(VAE, LATENT, phase=Phase.DECODE, runtime=runtime)))
    whole = torch.cat(list(decode_clip(VAE, LATENT, phase=Phase.DECODE, runtime=RUNTIME)))
    assert torch.equal(made, whole)

    tight = encode_peak(VAE.config, 160, 48, torch.float32, WHOLE).working_nbytes - 1
    assert torch.equal(encode(runtime), encode(RUNTIME))


def test_running_out_of_memory_in_the_middle_loses_nothing(monkeypatch, caplog):
    whole = list(decode_clip(VAE, LATENT, phase=Phase.DECODE, runtime=RUNTIME))
    decode_chunk, tried = VAE.decode_chunk, []

    def fails_while_whole(latent, *, cache, banding, **more):
        tried.append(banding)
        if banding == WHOLE and tried.count(WHOLE) == 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return decode_chunk(latent, cache=cache, banding=banding, **more)

    monkeypatch.setattr(VAE, "decode_chunk", fails_while_whole)
    seen = []
    runtime = replace(RUNTIME, observe=seen.append)
    made = list(decode_clip(VAE, LATENT, phase=Phase.DECODE, runtime=runtime))
    assert [len(chunk) for chunk in made] == [1, 4, 4]
    assert torch.equal(torch.cat(made), torch.cat(whole))
    assert [progress.step for progress in seen] == [1, 2, 3]
    assert "out of memory after 2 chunks: going on with Banding(levels=2, bands=2" in caplog.text


def test_an_encode_that_runs_out_of_memory_goes_on_too(monkeypatch, caplog):
    whole = encode(RUNTIME)
    moments, tried = VAE._moments, []

    def fails_while_coarse(pixels, cache, banding):
        tried.append(banding)
        if not banding.parks and tried.count(banding) == 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return moments(pixels, cache, banding)

    monkeypatch.setattr(VAE, "_moments", fails_while_coarse)
    seen = []
    assert torch.equal(encode(replace(RUNTIME, observe=seen.append)), whole)
    assert [progress.step for progress in seen] == [1, 2, 3]
    assert caplog.text.count("out of memory after 2 chunks") == 2
    assert tried[-1] == Banding(levels=2, bands=2, parks=True)


def test_memory_that_is_never_enough_is_an_error_and_no_loop(monkeypatch):
    def fails(*_args, **_more):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(VAE, "decode_chunk", fails)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        list(decode_clip(VAE, LATENT, phase=Phase.DECODE, runtime=RUNTIME))
    monkeypatch.setattr(VAE, "_moments", fails)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        encode(RUNTIME)


@pytest.mark.parametrize("parks", [False, True])
@pytest.mark.parametrize("bands", [1, 3])
def test_what_is_parked_is_predicted_and_its_place_used_again(parks, bands):
    banding = Banding(levels=2, bands=bands, parks=parks)
    peak = decode_peak(VAE.config, SHAPE.height, SHAPE.width, torch.float32, banding)
    cache, places = TailCache(), set()
    with torch.no_grad():
        for chunk in range(3):
            VAE.decode_chunk(LATENT[:, :, chunk : chunk + 1], cache=cache, banding=banding)
            berths = cache._parking._berths.values()
            if chunk:
                places.add(tuple(berth.values.data_ptr() for berth in berths))
    assert cache.parked_nbytes == peak.parked_nbytes
    assert (peak.parked_nbytes > 0) == parks
    assert cache.nbytes == peak.state_nbytes
    assert len(places) == 1


def test_of_parked_state_only_what_is_worked_with_is_there():
    """Whole frames: what parking saves is nearly all of the state that it parks."""
    whole = peak_of(WHOLE)
    parked = peak_of(Banding(levels=2, bands=1, parks=True))
    assert parked.parked_nbytes + parked.state_nbytes == whole.state_nbytes
    saved = whole.working_nbytes - parked.working_nbytes
    assert 0.5 * parked.parked_nbytes < saved < parked.parked_nbytes


def test_bands_are_chosen_by_host_memory_too():
    def plan(host_nbytes):
        whole = decode_peak(VAE.config, SHAPE.height, SHAPE.width, torch.float32, WHOLE)
        return plan_decode(
            VAE.config,
            SHAPE,
            compute=torch.float32,
            budget_nbytes=int(0.6 * whole.working_nbytes),
            host_nbytes=host_nbytes,
        )

    ample = plan(None)
    assert ample.banding.parks
    assert plan(ample.peak.parked_nbytes).banding == ample.banding
    with pytest.raises(BudgetError):
        plan(ample.peak.parked_nbytes // 4)


def test_a_refusal_for_want_of_host_memory_names_what_fits_without_more_of_it():
    def plan(device_nbytes, host_nbytes):
        return plan_decode(
            VAE.config,
            SHAPE,
            compute=torch.float32,
            budget_nbytes=device_nbytes,
            host_nbytes=host_nbytes,
        )

    finest = plan(peak_of(Banding(levels=2, bands=16, parks=True)).working_nbytes, None)
    scarce = finest.peak.parked_nbytes // 2
    with pytest.raises(BudgetError, match=r"would do with .* GB of host memory, of which") as short:
        plan(finest.peak.working_nbytes, scarce)
    least = short.value.least_nbytes - finest.peak.weights_nbytes
    assert plan(least, scarce).peak.parked_nbytes <= scarce
    with pytest.raises(BudgetError):
        plan(least - 1, scarce)
    # Nor does one that has no hope on the device promise what the host does not hold.
    with pytest.raises(BudgetError) as hopeless:
        plan(1000, scarce)
    assert hopeless.value.least_nbytes == short.value.least_nbytes
    with pytest.raises(BudgetError, match=r"free beside the weights$"):
        plan(1000, None)


def peak_of(banding):
    return decode_peak(VAE.config, SHAPE.height, SHAPE.width, torch.float32, banding)


def test_a_decode_with_little_host_memory_parks_all_the_same(monkeypatch, caplog):
    """The work before it is done: slow is better than lost."""
    whole = decode_peak(VAE.config, SHAPE.height, SHAPE.width, torch.float32, WHOLE)
    runtime = replace(RUNTIME, free_nbytes=lambda: int(0.6 * whole.working_nbytes))
    monkeypatch.setattr(pixels, "free_host_nbytes", lambda: 1000)
    made = torch.cat(list(decode_clip(VAE, LATENT, phase=Phase.DECODE, runtime=runtime)))
    assert "parking the VAE's state may be slow" in caplog.text
    monkeypatch.undo()
    caplog.clear()
    again = torch.cat(list(decode_clip(VAE, LATENT, phase=Phase.DECODE, runtime=runtime)))
    assert torch.equal(made, again)
    assert not caplog.text
