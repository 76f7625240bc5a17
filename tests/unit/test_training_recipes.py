"""The recipes: a step lowers the loss, a resumed run is the run, what they write can be read."""

import copy
import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from swift_core.errors import CheckpointError
from swift_core.geometry import Patch, PixelShape
from swift_core.media.pictures import load_picture
from swift_core.model.dit import WanDiT
from swift_core.precision import FP32
from swift_core.segments.plan import BlockRole, SegmentSettings, plan_segments
from swift_core.vae.autoencoder import WanVAE
from swift_core.weights.build import build_vae
from swift_core.weights.model_set import open_model_set
from tests.models import SMALL_DIT, SMALL_VAE
from tests.pictures import write_picture_cache
from training import recipes
from training.beginnings import Effort, Ground, begin_detail, begin_stage1
from training.chance import generator
from training.closed_form import make_vae
from training.curves import read_rows
from training.data import ClipMaker
from training.detail import DetailTask, draw_segment, gather_context
from training.fewsteps import walk
from training.loop import Budget, RunSettings, RunState, checkpoint_path, rate_share, train
from training.motion import MotionTask
from training.moves import SINGLE_MOVES
from training.optimizer import MuonAdam, Rates, is_matrix, orthogonalize
from training.pool import Pool
from training.references import DetailBatch, hybrid_reference, shrink
from training.sizes import (
    CARRY,
    FULL,
    SMALL,
    TINY_VAE,
    TINY_WORDS,
    Diet,
    Scale,
)
from training.vae import DecoderTask, VAETask, first_clips

CPU = torch.device("cpu")
CLIP = PixelShape(pixel_frames=5, height=32, width=32)
CODEC = replace(
    SMALL_VAE,
    encoder_dim=12,
    decoder_dim=16,
    dim_mult=(1, 1, 1),
    patch=8,
    spatial_downsample=(False, False),
    latent_mean=(0.0,) * 8,
    latent_std=(1.0,) * 8,
)
JUDGED = PixelShape(pixel_frames=9, height=64, width=64)
DIET = Diet(shapes=(CLIP, replace(CLIP, pixel_frames=9)), batch=2, pool=2, refresh=2)
WORDS = replace(TINY_WORDS, text_dim=SMALL_DIT.text_dim)
ROOMY = replace(SMALL_DIT, dim=96, heads=3, layers=2)
MOTION = replace(ROOMY, in_channels=20, patch=Patch(time=1, height=1, width=1))
DETAIL = replace(ROOMY, in_channels=16)
EFFORT = Effort(copied=6, lessons=2, recopied=4, estimated=6, reestimated=4)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_picture_cache(tmp_path_factory.mktemp("pictures"), side=96)


@pytest.fixture(scope="module")
def clips(cache):
    return ClipMaker(seed=3, device=CPU, textures=4, cache=cache)


def small_vae(clips):
    return make_vae(CODEC, first_clips(clips, DIET)[:6], seed=0)


def small_vae_task(clips):
    return VAETask(small_vae(clips), clips, DIET)


def small_decoder_task(clips):
    return DecoderTask(small_vae(clips), clips, DIET)


BEGUN = {}


def begun(clips):
    """Both DiTs before their first step; what is computed for them is computed once."""
    if not BEGUN:
        vae = small_vae(clips).requires_grad_(False)
        ground = Ground(vae=vae, clips=clips, diet=DIET, seed=0, effort=EFFORT)
        BEGUN.update(stage=begin_stage1(MOTION, WORDS, ground), dit=begin_detail(DETAIL, ground))
    return copy.deepcopy(BEGUN)


def small_motion_task(clips):
    return MotionTask(begun(clips)["stage"], clips, DIET)


def small_detail_task(clips):
    models = begun(clips)
    stage = models["stage"]
    return DetailTask(models["dit"], stage.words, stage.vae, clips, DIET, stage=stage)


TASKS = [small_vae_task, small_decoder_task, small_motion_task, small_detail_task]


def stepping(task):
    """What a recipe surrounds its steps with."""
    return getattr(task, "stepping", nullcontext)


@pytest.mark.parametrize("make_task", TASKS)
def test_steps_lower_the_loss(make_task, clips):
    task = make_task(clips)
    # All begin as something that is good already.
    rates = (
        Rates(matrix=1e-3, vector=1e-4)
        if hasattr(task, "stepping")
        else Rates(matrix=0.0, vector=3e-4)
    )
    optimizer = MuonAdam(
        [(name, p) for module in task.modules.values() for name, p in module.named_parameters()],
        rates,
    )
    before = float(task.losses(0)["loss"].detach())
    for step in range(12):
        task.losses(0)["loss"].backward()
        with stepping(task)():
            optimizer.step(step, share=1.0)
    assert float(task.losses(0)["loss"].detach()) < 0.95 * before


@pytest.mark.parametrize("make_task", TASKS)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    make_task, clips, tmp_path, monkeypatch
):
    ends = {}
    for name, stops in (("through", (6,)), ("halves", (4, 6))):
        for stop in stops:
            # A fall that begins before the first stop would make the first half another run.
            monkeypatch.setattr("training.loop.FALL", 1e-9)
            settings = RunSettings(
                out=tmp_path / name, budget=Budget(steps=stop), resume=stop > 4, log_every=1
            )
            task = make_task(clips)
            state = train(task, settings, stepping=stepping(task))
            assert state.step == stop
        task = make_task(clips).name
        ends[name] = load_file(tmp_path / name / f"{task}.checkpoint.safetensors")
        steps = [row["step"] for row in read_rows(tmp_path / name / f"{task}.csv")]
        assert steps == [0, 1, 2, 3, 4, 5]
    assert ends["through"].keys() == ends["halves"].keys()
    for name, tensor in ends["through"].items():
        assert torch.equal(tensor, ends["halves"][name]), name


@pytest.mark.parametrize("make_task", TASKS)
def test_recipes_run_in_half_precision(make_task, clips, tmp_path):
    """As on a GPU: activations bf16 by autocast, weights and steps fp32."""
    task = make_task(clips)
    train(task, RunSettings(out=tmp_path, budget=Budget(steps=2), half=True, log_every=1))
    rows = read_rows(tmp_path / f"{task.name}.csv")
    assert len(rows) == 2
    for module in task.modules.values():
        assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_a_checkpoint_is_not_overwritten_unasked(clips, tmp_path):
    settings = RunSettings(out=tmp_path, budget=Budget(steps=1))
    train(small_vae_task(clips), settings)
    with pytest.raises(CheckpointError, match="--resume"):
        train(small_vae_task(clips), settings)
    (tmp_path / "vae.checkpoint.safetensors").rename(tmp_path / "motion.checkpoint.safetensors")
    with pytest.raises(CheckpointError, match="no run of motion"):
        train(small_motion_task(clips), replace(settings, resume=True))


def test_a_loss_that_is_no_number_ends_the_run(clips, tmp_path):
    task = small_vae_task(clips)
    next(task.vae.parameters()).data.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="loss of vae is nan at step 0"):
        train(task, RunSettings(out=tmp_path, budget=Budget(steps=1)))


def test_rates_rise_at_once_and_fall_at_the_end():
    assert rate_share(0.0, 0) < 0.1
    assert rate_share(0.05, 1000) == 1
    assert rate_share(0.905, 1000) == pytest.approx(0.1)
    assert rate_share(1.1, 1000) == 0
    budget = Budget(seconds=10, steps=100)
    assert budget.spent(RunState(step=20, seconds=5)) == 0.5
    assert budget.spent(RunState(step=70, seconds=5)) == 0.7


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 20, 6), (2, 6, 20)])
def test_orthogonalize_brings_singular_values_near_one(shape):
    matrices = torch.randn(shape, generator=generator(0))
    values = torch.linalg.svdvals(orthogonalize(matrices))
    assert values.min() > 0.3
    assert values.max() < 1.4


def test_tables_norms_and_ways_out_are_no_matrices():
    dit = WanDiT(SMALL_DIT)
    matrices = {name for name, parameter in dit.named_parameters() if is_matrix(name, parameter)}
    assert "blocks.0.self_attn.q.weight" in matrices
    for name in ("head.head.weight", "blocks.0.modulation", "blocks.0.self_attn.norm_q.weight"):
        assert name not in matrices
    for name, parameter in WanVAE(CODEC).named_parameters():
        assert is_matrix(name, parameter) is name.endswith("weight"), name


def test_the_pool_moves_on_and_makes_the_same_again():
    made = []

    def make(index):
        made.append(index)
        return index * 10

    pool = Pool(make, Diet(shapes=(CLIP,), batch=1, pool=3, refresh=2), seed=0, device=CPU)
    drawn = [pool.draw(step) for step in range(20)]
    for step, (index, batch) in enumerate(drawn):
        assert step // 2 <= index < step // 2 + 3
        assert batch == index * 10
    assert len(made) == len(set(made))
    assert (
        Pool(make, Diet(shapes=(CLIP,), batch=1, pool=3, refresh=2), seed=0, device=CPU).draw(13)
        == drawn[13]
    )


def test_walking_follows_the_flow_to_the_clean_latent():
    clean, noise = torch.randn((2, 1, 4, 2, 3, 3), generator=generator(0))
    end = walk(lambda latent, sigma: (latent - clean) / sigma, noise, (1.0, 0.8, 0.3, 0.0))
    torch.testing.assert_close(end, clean)


def test_segments_are_drawn_as_csg_cuts_them():
    plans = {
        plan_segments(9, SegmentSettings(segment_length=m, neighbors=n, right_neighbors=r))
        for m in (2, 3, 4)
        for n in (0, 1, 2)
        for r in (0, 1)
    }
    segments = {segment for plan in plans for segment in plan.segments}
    drawn = {draw_segment(generator(1, number), 9)[0] for number in range(60)}
    assert drawn <= segments
    assert len(drawn) > 10


def test_conditions_are_clean_and_targets_show_the_reference():
    clean, reference = torch.randn((2, 1, 4, 9, 2, 2), generator=generator(0))
    batch = DetailBatch(clean=clean, reference=reference, moves=())
    for number in range(20):
        draw = generator(2, number)
        segment, _ = draw_segment(draw, 9)
        context = gather_context(batch, segment, draw)
        for place, (role, frame) in enumerate(
            zip(segment.roles, segment.latent_frames, strict=True)
        ):
            seen = context[:, :, place]
            if role is BlockRole.ANCHOR:
                assert torch.equal(seen, clean[:, :, 0])
            elif role is BlockRole.TARGET or frame in segment.right:
                assert torch.equal(seen, reference[:, :, frame])
            else:
                span = reference[:, :, frame] - clean[:, :, frame]
                worn = ((seen - clean[:, :, frame]) / span).mean()
                assert -1e-6 <= worn <= 0.5


def test_the_reference_holds_the_picture_as_frame_0():
    film = torch.rand((1, 5, 64, 64, 3), generator=generator(0))
    small = shrink(film)
    assert small.shape == (1, 5, 16, 16, 3)
    reference, plain = hybrid_reference(film, small), hybrid_reference(film, small, carry=0.0)
    assert torch.equal(reference[:, 0], film[:, 0])
    assert not torch.equal(reference[:, 1], film[:, 1])
    assert not torch.equal(reference[:, 1], plain[:, 1])
    still = film[:, :1].expand(-1, 5, -1, -1, -1)
    error = [(hybrid_reference(still, shrink(still), carry=c) - still).std() for c in (0.0, 1.0)]
    assert error[1] < error[0] / 5


@pytest.mark.parametrize("scale", [SMALL, FULL], ids=["small", "full"])
def test_every_recipe_ends(scale):
    assert set(scale.budgets) == set(recipes.RECIPES) - {"all"}


@pytest.mark.parametrize("scale", [SMALL, FULL], ids=["small", "full"])
def test_diets_fit_the_models(scale):
    """VAE chunks; a quarter of Stage II's clips still encodes, and its tokens are whole."""
    for diet, side in ((scale.vae, 8), (scale.motion, 8), (scale.detail, 32)):
        for shape in diet.shapes:
            assert (shape.pixel_frames - 1) % 4 == 0
            assert shape.height % side == 0
            assert shape.width % side == 0
        assert all(diet.count(index) >= 1 for index in range(len(diet.shapes)))


def test_all_recipes_make_a_set_that_opens(cache, tmp_path, monkeypatch):
    for side in ("training", "held-out"):
        (tmp_path / f"pictures-{side}.safetensors").write_bytes(cache.read_bytes())
    for name, config in (
        ("TINY_VAE", CODEC),
        ("TINY_MOTION", MOTION),
        ("TINY_DETAIL", DETAIL),
        ("TINY_WORDS", WORDS),
    ):
        monkeypatch.setattr(recipes, name, config)
    monkeypatch.setattr("training.vae.STATISTICS_BATCHES", 2)
    scale = Scale(
        vae=DIET,
        motion=DIET,
        detail=DIET,
        budgets={},
        judged=(JUDGED,),
        judged_motion=CLIP,
    )
    shop = recipes.Workshop(
        settings=RunSettings(out=tmp_path, budget=Budget(steps=2)),
        scale=scale,
        device=CPU,
        seed=0,
        textures=4,
        effort=EFFORT,
    )
    recipes.RECIPES["all"](shop)
    models = open_model_set(tmp_path / "set")
    assert models.name == "swift-tiny"
    assert models.detail_recipe.steps == 4
    assert models.carry == CARRY
    vae = build_vae(tmp_path / "set" / "vae.safetensors", precision=FP32)
    assert vae.config.latent_std != CODEC.latent_std
    with torch.no_grad():
        latent = vae.encode(torch.rand((1, 3, 5, 32, 32), generator=generator(1)) * 2 - 1)
    assert latent.shape == (1, 8, 2, 4, 4)
    report = json.loads((tmp_path / "report.json").read_text())
    assert {name: entry["steps"] for name, entry in report.items()} == {
        "vae": 2,
        "decoder": 2,
        "motion": 2,
        "detail": 2,
    }
    for name in report:
        assert load_picture(tmp_path / f"{name}-held-out.png").shape[2] == 3
    assert set(report["detail"]["held_out"][str(JUDGED)]) == {
        "bicubic",
        "vae_bicubic",
        "vae_carried",
        "stage2",
        "ceiling",
        "first",
    }
    assert set(report["motion"]["held_out"]) == {move.words for move in SINGLE_MOVES}
    assert models.motion_high.load(FP32).config.in_channels == 20
    assert TINY_VAE.compression.space == 8


@pytest.mark.parametrize("budget", [Budget(seconds=0), Budget(steps=0)])
def test_a_budget_of_nothing_leaves_a_model_as_it_began(budget, clips, tmp_path):
    task = small_detail_task(clips)
    began = {name: value.clone() for name, value in task.dit.state_dict().items()}
    state = train(task, RunSettings(out=tmp_path, budget=budget))
    assert (state.step, state.seconds) == (0, 0)
    for name, value in task.dit.state_dict().items():
        assert torch.equal(value, began[name]), name
    assert checkpoint_path(tmp_path, task.name).exists()
