"""What a run takes of a card's memory: predicted, fitted, refused; and the run keeps to it."""

import json
import logging
import re
from dataclasses import replace
from itertools import groupby

import pytest
import torch

from swift_core.errors import BudgetError
from swift_core.flow.recipe import Recipe, SolverName
from swift_core.geometry import LatentShape, PixelShape
from swift_core.live_bytes import LiveBytes, TensorsOnly
from swift_core.memory.streaming import BlockStream, block_nbytes
from swift_core.memory.working import Step
from swift_core.model.config import WAN22_I2V_A14B, WAN22_REFERENCE_5B
from swift_core.model.dit import FP32_ISLANDS, WanDiT
from swift_core.pipeline import Keep, generate
from swift_core.progress import Phase
from swift_core.segments.plan import Interaction, SegmentSettings
from swift_core.stages import speed as speeds
from swift_core.stages.fit import Fit, dit_nbytes
from swift_core.stages.memory import plan_memory
from swift_core.stages.plan import PUBLISHED_MODELS, plan_generation, planned_models
from swift_core.stages.resources import Resources
from swift_core.stages.run_plan import plan_run
from swift_core.stages.runtime import Runtime
from swift_core.stages.speed import USUAL_SPEED, Speed, measure_speed, speed_of
from swift_core.vae.autoencoder import WanVAE
from swift_core.vae.bands import WHOLE
from swift_core.vae.config import WAN22_VAE
from swift_core.vae.memory import MOST_BANDS, decode_peak
from swift_core.weights.lora import Lora, match_lora, read_lora
from swift_core.weights.lora_sizes import AddedBytes
from tests.models import RUNTIME, SMALL_DIT, slot, small_dit, small_models, small_words
from tests.sparse import write_sparse
from tests.unit.test_pipeline import OUTPUT, SETTINGS

RECIPE = Recipe(steps=4, cfg=1.0, sigma_shift=5.0, solver=SolverName.EULER)
GUIDED = replace(RECIPE, cfg=3.0)
GB = 10**9


def plan(pixel_frames=81, *, size=None, recipe=RECIPE, segments=None, **more):
    return plan_generation(
        size or PixelShape(pixel_frames=pixel_frames, height=1408, width=2560),
        segments or SegmentSettings(),
        motion_recipe=recipe,
        detail_recipe=recipe,
        **more,
    )


def memory(made, gigabytes, models=PUBLISHED_MODELS):
    resources = Resources(device_nbytes=int(gigabytes * GB))
    return plan_memory(models, made, resources, compute=torch.bfloat16)


def test_2k_fits_a_card_of_24_gb():
    made = memory(plan(), 22)
    assert made.device_nbytes <= 22 * GB
    assert list(made.stages) == [
        "motion",
        "motion: decode",
        "reference",
        "refine",
        "decode",
    ]
    assert made.stages["refine"].words == "all 30 blocks resident"
    assert "streamed" in made.stages["motion"].words
    assert "parked in host memory" in made.stages["decode"].words
    assert made.stages["motion"].host_nbytes == pytest.approx(17 * 0.7026 * GB, rel=0.001)
    packed = replace(PUBLISHED_MODELS, motion_packed_nbytes=14_530_000_000)
    assert memory(plan(), 22, packed).stages["motion"].words == "all 40 blocks resident"
    parked = memory(plan(), 22, packed).stages["decode"]
    assert memory(plan(), 22, packed).host_nbytes == parked.host_nbytes > 2 * GB


EVERY = [f"{kind}_attn.{part}" for kind in ("self", "cross") for part in "qkvo"]
EVERY += ["ffn.0", "ffn.2"]


def full_size_lora(path, config, rank=64):
    """Match a LoRA of true size with a DiT: factors in fp16 for every layer of every block."""
    shapes = {}
    for index in range(config.layers):
        for layer in EVERY:
            inputs, outputs = {
                "ffn.0": (config.dim, config.ffn_dim),
                "ffn.2": (config.ffn_dim, config.dim),
            }.get(layer, (config.dim, config.dim))
            stem = f"diffusion_model.blocks.{index}.{layer}"
            shapes[f"{stem}.lora_down.weight"] = ("F16", (rank, inputs))
            shapes[f"{stem}.lora_up.weight"] = ("F16", (outputs, rank))
    return match_lora(Lora(file=read_lora(write_sparse(path, shapes))), config)


def test_loras_are_counted_whatever_the_weights_are(tmp_path):
    low = full_size_lora(tmp_path / "low.safetensors", WAN22_I2V_A14B, rank=32)
    high = full_size_lora(tmp_path / "high.safetensors", WAN22_I2V_A14B)
    loras = {"motion_high": (high,), "motion_low": (low,)}
    made = plan()
    block = 2 * 64 * (8 * 2 * 5120 + 2 * (5120 + 13824))  # of the expert with the larger one

    def motion(gigabytes, compute=torch.bfloat16, **changes):
        models = replace(PUBLISHED_MODELS, **changes)
        resources = Resources(device_nbytes=gigabytes * GB)
        return plan_memory(models, made, resources, compute=compute).stages["motion"]

    streamed = motion(22, loras=loras)
    assert streamed.words.startswith("22 of 40 blocks resident")
    passing = 18 * (dit_nbytes(WAN22_I2V_A14B, compute=torch.bfloat16)[0] + block)
    assert streamed.copied_nbytes == 6 * passing  # of two experts each reads the prompt
    assert streamed.host_nbytes == passing + 22 * block, "the others' are kept there too"
    packed = {"motion_packed_nbytes": 14_530_000_000}
    before, after = motion(30, **packed), motion(30, **packed, loras=loras)
    assert before.words == after.words == "all 40 blocks resident"
    assert after.device_nbytes - before.device_nbytes == 40 * block
    assert (before.host_nbytes, after.host_nbytes) == (0, 40 * block)
    assert motion(90, torch.float32) == motion(90, torch.float32, loras=loras), "these are added to"


def test_a_longer_video_takes_no_more_but_in_stage_one():
    short, long = (memory(plan(frames, has_motion=True), 22) for frames in (81, 241))

    def held(made):
        return {
            name: (stage.words, stage.device_nbytes, stage.host_nbytes)
            for name, stage in made.stages.items()
        }

    assert held(long) == held(short)
    assert "motion" not in long.stages


def test_what_does_not_fit_is_refused_with_what_would():
    with pytest.raises(BudgetError, match=r"the DiT takes at least \d\.\d GB .* 4\.0 GB are free"):
        memory(plan(), 4)


def test_a_refusal_says_which_change_would_fit_and_it_does():
    with pytest.raises(BudgetError) as refused:
        memory(plan(has_motion=True), 4)
    said = re.search(
        r"^(.*): .* It would fit as (\d+)x(\d+), or with (.*) GB\.$", str(refused.value)
    )
    assert said is not None, refused.value
    assert said[1] == "decode"
    smaller = PixelShape(pixel_frames=81, height=int(said[3]), width=int(said[2]))
    assert 0.15 < smaller.height * smaller.width / (2560 * 1408) < 1
    assert smaller.width / smaller.height == pytest.approx(2560 / 1408, rel=0.1)
    memory(plan(size=smaller, has_motion=True), 4)
    memory(plan(has_motion=True), float(said[4]) + 0.1)


def test_shorter_segments_are_proposed_where_they_are_enough():
    made = plan(has_motion=True, segments=SegmentSettings(segment_length=20))
    with pytest.raises(BudgetError, match=r"refine: .* fit in segments of \d+ latent") as refused:
        memory(made, 8)
    shorter = int(re.search(r"segments of (\d+)", str(refused.value))[1])
    memory(plan(has_motion=True, segments=SegmentSettings(segment_length=shorter)), 8)


def test_segments_are_decoded_between_others_where_all_of_it_fits():
    large, small = memory(plan(), 80), memory(plan(), 22)
    assert large.between.banding == WHOLE
    assert large.stages["decode"].words == "whole frames, each segment as soon as it is finished"
    together = large.stages["refine"].device_nbytes
    assert together == large.stages["decode"].device_nbytes <= 80 * GB
    assert together > small.stages["decode"].device_nbytes
    assert small.between is None
    # While the VAE works, the DiT stays, and the prompts that it has read.
    size, step = {"compute": torch.bfloat16}, plan().detail_step
    block, fixed = dit_nbytes(WAN22_REFERENCE_5B, **size)
    decode = decode_peak(WAN22_VAE, 1408, 2560, torch.bfloat16, WHOLE).nbytes
    kept = step.kept_nbytes(WAN22_REFERENCE_5B, **size)
    assert kept == 2 * 30 * 512 * 3072 * 2
    assert together == fixed + 30 * block + kept + decode


def test_streaming_takes_as_long_as_its_copies():
    made = plan()
    slow = Speed(flops=1e14, copy_nbytes=1e9)
    whole = plan_run(
        PUBLISHED_MODELS,
        made,
        Resources(device_nbytes=22 * GB, host_nbytes=int(11.5 * GB), speed=slow),
        compute=torch.bfloat16,
    )
    streamed = whole.memory.stages["motion"].copied_nbytes
    assert streamed == 6 * 17 * dit_nbytes(WAN22_I2V_A14B, compute=torch.bfloat16)[0]
    assert whole.seconds["motion"] == streamed / 1e9
    parked = whole.memory.stages["decode"].host_nbytes
    assert 10 * GB < parked <= 11.5 * GB
    # It comes with each chunk, beside the work, and goes back at the same time.
    assert whole.seconds["decode"] == pytest.approx(21 * parked / 1e9, rel=0.01)
    assert whole.seconds["decode"] > 54, "its arithmetic alone"
    assert "only 11.5 GB of host memory are free" in whole.describe()
    minutes = float(re.search(r"^time +([\d.]+) min", whole.describe(), re.M)[1])
    assert minutes == pytest.approx(sum(whole.seconds.values()) / 60, rel=0.01)
    data = json.loads(json.dumps(whole.as_data()))
    assert data["memory"]["stages"]["motion"]["copied_nbytes"] == streamed
    assert data["latent_nbytes"] == 4 * 48 * 21 * 88 * 160
    unbounded = plan_run(PUBLISHED_MODELS, made, Resources(), compute=torch.bfloat16)
    assert unbounded.memory is None
    assert "memory" not in unbounded.describe()


def test_host_memory_bounds_what_is_parked():
    """16 GB of RAM beside a 24 GB card: the state of a 2K decode has no place."""
    resources = Resources(device_nbytes=22 * GB, host_nbytes=8 * GB)
    made = plan(has_motion=True)
    with pytest.raises(BudgetError, match=r"decode: .* It would fit as (\d+)x(\d+)") as refused:
        plan_run(PUBLISHED_MODELS, made, resources, compute=torch.bfloat16)
    width, height = re.search(r"fit as (\d+)x(\d+)", str(refused.value)).groups()
    smaller = PixelShape(pixel_frames=81, height=int(height), width=int(width))
    made = plan(size=smaller, has_motion=True)
    whole = plan_run(PUBLISHED_MODELS, made, resources, compute=torch.bfloat16)
    assert whole.memory.host_nbytes <= 8 * GB
    assert smaller.width > 2000


def test_a_speed_is_measured():
    found = measure_speed(torch.device("cpu"), dtype=torch.float32)
    assert 1e8 < found.flops < 1e15
    assert found.origin == "measured"


def test_a_card_without_memory_for_a_measurement_is_taken_for_a_usual_one(monkeypatch):
    def fails(*_given, **_more):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(speeds, "measure_speed", fails)
    assert speed_of(torch.device("cpu"), dtype=torch.float32) == USUAL_SPEED


def test_it_is_said_in_words_and_as_data():
    made = memory(plan(), 22)
    lines = made.describe().splitlines()
    assert lines[0].startswith("memory    21.7")
    assert lines[0].endswith(" of 22.0 GB on the device, 11.9 GB in host memory")
    assert lines[4] == "           12.1 GB  refine: all 30 blocks resident"
    data = json.loads(json.dumps(made.as_data()))
    assert data["budget_nbytes"] == 22 * GB
    assert data["stages"]["refine"]["device_nbytes"] == made.stages["refine"].device_nbytes
    assert (data["stages"]["motion"]["blocks"], data["stages"]["motion"]["resident"]) == (40, 23)
    decode = data["stages"]["decode"]
    assert (decode["bands"], decode["levels"], decode["parks"]) == (1, 2, True)


def test_weights_are_counted_as_the_modules_have_them():
    for config in (WAN22_REFERENCE_5B, WAN22_I2V_A14B):
        with torch.device("meta"):
            dit = WanDiT(config).to(torch.bfloat16)
        for name, parameter in dit.named_parameters():
            if any(part in name for part in FP32_ISLANDS):
                parameter.data = parameter.data.float()
        assert dit_nbytes(config, compute=torch.bfloat16) == block_nbytes(dit)


def forward(dit, step, prompts=1):
    """Run a step in earnest, and give the most bytes that were alive."""
    config, window = dit.config, step.window
    size = (1, config.in_channels, window.latent_frames, window.height, window.width)
    text = torch.randn(1, 5, config.text_dim)
    latent, timestep = torch.randn(size), torch.zeros(1, window.latent_frames)
    with torch.no_grad(), LiveBytes(dit.parameters()) as alive, TensorsOnly():
        keys = [dit.read_prompt(text) for _ in range(prompts)]
        remembered = [
            dit.read_context(
                latent[:, :, : step.remembered_frames], key, positions=range(step.remembered_frames)
            )
            for key in keys
            if step.remembered_frames
        ]
        dit(latent, timestep, keys[0], positions=range(window.latent_frames))
    del remembered
    return alive.peak


@pytest.mark.parametrize("prompts", [1, 2])
def test_a_step_takes_what_is_predicted(prompts):
    config = replace(SMALL_DIT, dim=96, heads=2, ffn_dim=256, layers=6, text_tokens=40)
    dit = small_dit(
        **{name: getattr(config, name) for name in ("dim", "ffn_dim", "layers", "text_tokens")}
    )
    window = LatentShape(channels=8, latent_frames=5, height=16, width=24)
    step = Step(window=window, prompts=prompts)
    predicted = step.nbytes(config, compute=torch.float32)
    assert forward(dit, step, prompts) == pytest.approx(predicted, rel=0.1)
    remembering = replace(step, remembered_frames=2)
    both = remembering.nbytes(config, compute=torch.float32)
    assert forward(dit, remembering, prompts) == pytest.approx(both, rel=0.1)
    more = both - predicted
    assert more == prompts * 6 * 2 * (8 * 12) * 2 * 96 * 4


def test_read_only_conditions_are_remembered():
    both, read_only = (
        plan(segments=SegmentSettings(interaction=how), recipe=GUIDED).detail_step
        for how in (Interaction.BIDIRECTIONAL, Interaction.READ_ONLY)
    )
    assert (both.remembered_frames, read_only.remembered_frames) == (0, 3)
    assert both.window == read_only.window
    assert both.window.latent_frames == 5
    assert both.prompts == 2


@pytest.fixture
def picture():
    return torch.rand(70, 90, 3, generator=torch.Generator().manual_seed(0))


def deep_models():
    """A set whose DiTs have blocks to stream; a slot makes a new module each time, as files do."""
    models = small_models(text=slot(small_words().config, small_words()))

    def deep(one, **changes):
        config = replace(one.config, layers=6)
        return replace(one, config=config, load=lambda _: small_dit(layers=6, **changes))

    return replace(
        models,
        motion_high=deep(models.motion_high, in_channels=20),
        motion_low=deep(models.motion_high, in_channels=20),
        detail=deep(models.detail, in_channels=16),
    )


def test_a_run_within_a_budget_makes_the_same_video(picture, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    whole = torch.cat(list(generate(deep_models(), picture, SETTINGS, runtime=RUNTIME)))
    models = planned_models(deep_models())
    made = plan_generation(
        OUTPUT,
        SETTINGS.segments,
        models=models,
        motion_recipe=SETTINGS.motion_recipe,
        detail_recipe=SETTINGS.detail_recipe,
    )
    fit = Fit(GB, torch.float32, GB)
    ample = (
        fit.dit(models.motion, made.motion_step, None, AddedBytes()),
        fit.dit(models.detail, made.detail_step, None, AddedBytes()),
    )
    block, _ = dit_nbytes(models.motion, compute=torch.float32)
    most = max(one.stage.device_nbytes for one in ample) - 3 * block
    taken = []
    init = BlockStream.__init__

    def watch(self, *given, **more):
        init(self, *given, **more)
        taken.append(self.residency)

    monkeypatch.setattr(BlockStream, "__init__", watch)
    told = []
    runtime = replace(
        RUNTIME,
        budget_nbytes=lambda: most,
        free_nbytes=lambda: GB,
        streamed=lambda name, _report: told.append(name),
    )
    made = torch.cat(list(generate(deep_models(), picture, SETTINGS, runtime=runtime)))
    assert torch.equal(made, whole)
    assert len(taken) == 3
    assert all(residency.device_nbytes <= most for residency in taken)
    assert "blocks resident" in caplog.text
    assert len(told) == sum(residency.resident < 6 for residency in taken) > 0
    small = replace(runtime, budget_nbytes=lambda: block)
    with pytest.raises(BudgetError):
        generate(deep_models(), picture, SETTINGS, runtime=small)


def test_segments_decoded_between_others_are_the_same_video(picture):
    whole = torch.cat(list(generate(deep_models(), picture, SETTINGS, runtime=RUNTIME)))
    seen, kept = [], []
    runtime = replace(RUNTIME, budget_nbytes=lambda: GB, observe=seen.append)
    chunks = generate(
        deep_models(), picture, SETTINGS, runtime=runtime, keep=Keep(latent=kept.append)
    )
    made = torch.cat(list(chunks))
    assert torch.equal(made, whole)
    assert [latent.shape[2] for latent in kept] == [4]
    order = [p.phase for p in seen if p.phase in (Phase.REFINE, Phase.DECODE)]
    turns = [(phase, len(list(each))) for phase, each in groupby(order)]
    steps = SETTINGS.detail_recipe.steps
    assert turns == [
        *((Phase.REFINE, steps), (Phase.DECODE, 3)),  # the first frame is there from the beginning
        *((Phase.REFINE, steps), (Phase.DECODE, 1)),
    ], "a segment's frames come before the next segment is begun"


def test_a_shortage_of_the_sampler_between_segments_is_told_as_such(picture):
    """Nothing is left to be streamed: the decode must not take it for its own and try again."""

    def observe(progress):
        if progress.phase is Phase.REFINE and progress.segment == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    runtime = replace(RUNTIME, budget_nbytes=lambda: GB, observe=observe)
    chunks = generate(small_models(), picture, SETTINGS, runtime=runtime)
    with pytest.raises(BudgetError, match="memory ran out in Stage II"):
        list(chunks)


def phases_of(seen):
    """List sampling and decoding in Stage II as they took turns."""
    told = (p.phase for p in seen if p.phase in (Phase.REFINE, Phase.DECODE))
    return [phase for phase, _ in groupby(told)]


def test_a_decode_that_finds_no_room_between_segments_waits_for_the_last(
    picture, monkeypatch, caplog
):
    whole = torch.cat(list(generate(deep_models(), picture, SETTINGS, runtime=RUNTIME)))
    seen, bands, kept = [], [], []
    decode_chunk = WanVAE.decode_chunk

    def fails_beside_the_dit(self, latent, *, cache, banding, **more):
        if Phase.REFINE in phases_of(seen) and not kept:
            bands.append(banding)
            if len(bands) > 2:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return decode_chunk(self, latent, cache=cache, banding=banding, **more)

    monkeypatch.setattr(WanVAE, "decode_chunk", fails_beside_the_dit)
    runtime = replace(RUNTIME, budget_nbytes=lambda: GB, observe=seen.append)
    made = torch.cat(
        list(
            generate(
                deep_models(), picture, SETTINGS, runtime=runtime, keep=Keep(latent=kept.append)
            )
        )
    )
    assert torch.equal(made, whole)
    assert phases_of(seen) == [Phase.REFINE, Phase.DECODE, Phase.REFINE, Phase.DECODE]
    assert [p.step for p in seen if p.phase is Phase.DECODE] == [1, 2, 3, 4]
    assert len(kept) == 1
    assert max(banding.bands for banding in bands) == MOST_BANDS, "the finest were tried before"
    assert "decoding when all segments are sampled" in caplog.text


def test_a_vae_that_does_not_load_beside_a_dit_waits_for_the_last_segment(
    picture, monkeypatch, caplog
):
    whole = torch.cat(list(generate(deep_models(), picture, SETTINGS, runtime=RUNTIME)))
    seen, kept = [], []
    load = Runtime.load

    def fails_beside_the_dit(self, slot):
        if Phase.REFINE in phases_of(seen) and not kept:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return load(self, slot)

    monkeypatch.setattr(Runtime, "load", fails_beside_the_dit)
    runtime = replace(RUNTIME, budget_nbytes=lambda: GB, observe=seen.append)
    chunks = generate(
        deep_models(), picture, SETTINGS, runtime=runtime, keep=Keep(latent=kept.append)
    )
    assert torch.equal(torch.cat(list(chunks)), whole)
    assert phases_of(seen) == [Phase.REFINE, Phase.DECODE]
    assert "decoding when all segments are sampled" in caplog.text


def test_memory_that_others_took_meanwhile_stops_no_run_that_is_under_way(picture, caplog):
    whole = torch.cat(list(generate(deep_models(), picture, SETTINGS, runtime=RUNTIME)))
    free = [GB]

    def observe(progress):
        if progress.phase is Phase.MOTION_CONDITION:
            free[0] = 1000

    runtime = replace(
        RUNTIME,
        budget_nbytes=lambda: free[0],
        free_nbytes=lambda: free[0],
        observe=observe,
    )
    made = torch.cat(list(generate(deep_models(), picture, SETTINGS, runtime=runtime)))
    torch.testing.assert_close(made, whole, atol=1e-4, rtol=0)
    assert "trying with all blocks streamed" in caplog.text
    assert "trying the finest bands" in caplog.text
    with pytest.raises(BudgetError):
        generate(deep_models(), picture, SETTINGS, runtime=runtime)


def test_a_prompt_that_finds_no_room_is_read_all_the_same(picture, monkeypatch, caplog):
    whole = torch.cat(list(generate(deep_models(), picture, SETTINGS, runtime=RUNTIME)))
    read, calls = WanDiT.read_prompt, []

    def fails_first(self, *given, **more):
        calls.append(self)
        if len(calls) in (1, 3):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return read(self, *given, **more)

    monkeypatch.setattr(WanDiT, "read_prompt", fails_first)
    runtime = replace(RUNTIME, budget_nbytes=lambda: GB)
    made = torch.cat(list(generate(deep_models(), picture, SETTINGS, runtime=runtime)))
    assert torch.equal(made, whole)
    assert caplog.text.count("out of memory: going on with") == 2


def test_a_dit_that_runs_out_of_memory_goes_on(picture, monkeypatch, caplog):
    whole = torch.cat(list(generate(deep_models(), picture, SETTINGS, runtime=RUNTIME)))
    forward, calls = WanDiT.forward, []

    def fails_now_and_then(self, *given, **more):
        calls.append(self)
        if len(calls) in (1, 4, 5):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return forward(self, *given, **more)

    monkeypatch.setattr(WanDiT, "forward", fails_now_and_then)
    seen = []
    runtime = replace(RUNTIME, budget_nbytes=lambda: GB, observe=seen.append)
    made = torch.cat(list(generate(deep_models(), picture, SETTINGS, runtime=runtime)))
    assert torch.equal(made, whole)
    assert caplog.text.count("out of memory: going on with") == 3
    steps = [(p.phase, p.segment, p.step) for p in seen]
    assert len(steps) == len(set(steps)), "no step is told twice"
