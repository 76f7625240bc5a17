"""The plan of a run: sizes, tokens, work, and what it refuses."""

import json

import pytest

from swift_core.errors import GeometryError
from swift_core.flow.recipe import Recipe, SolverName
from swift_core.geometry import PixelShape
from swift_core.model.config import WAN22_TI2V_5B
from swift_core.segments.plan import Interaction, SegmentSettings
from swift_core.stages.plan import PUBLISHED_MODELS, PlannedModels, plan_generation
from swift_core.vae.config import WAN22_VAE

RECIPE = Recipe(steps=4, cfg=1.0, sigma_shift=5.0, solver=SolverName.EULER)


def plan(pixel_frames=81, height=1408, width=2560, *, recipe=RECIPE, segments=None, **more):
    return plan_generation(
        PixelShape(pixel_frames=pixel_frames, height=height, width=width),
        segments or SegmentSettings(),
        motion_recipe=recipe,
        detail_recipe=recipe,
        **more,
    )


def work(made):
    return {stage.stage: stage.flops / 1e15 for stage in made.work}


def test_the_paper_s_run():
    """Against numbers.md: 7 segments, 17,600 tokens a step, 17.3 PFLOP."""
    made = plan()
    assert len(made.segments.segments) == 7
    assert (made.tokens_per_frame, made.tokens_per_step) == (3520, 17600)
    done = work(made)
    assert done["motion"] == pytest.approx(2.926, rel=0.015)
    # Six segments see 5 frames, the first one 4.
    assert done["refine"] == pytest.approx(4 * (6 * 0.2733 + 0.2005), rel=0.015)
    assert done["decode"] == pytest.approx(5.403, rel=0.005)
    assert done["reference"] == pytest.approx(1.034, rel=0.005)
    assert sum(done.values()) == pytest.approx(17.26, rel=0.025)


def test_tokens_per_step_do_not_depend_on_the_length():
    assert plan(241).tokens_per_step == plan(81).tokens_per_step
    whole = plan(segments=SegmentSettings(segment_length=20))
    assert whole.tokens_per_step == 73920


def test_guidance_doubles_the_work_and_read_only_saves_some():
    guided = Recipe(steps=4, cfg=3.0, sigma_shift=5.0, solver=SolverName.EULER)
    assert work(plan(recipe=guided))["refine"] == 2 * work(plan())["refine"]
    read_only = plan(segments=SegmentSettings(interaction=Interaction.READ_ONLY))
    assert 0.5 < work(read_only)["refine"] / work(plan())["refine"] < 0.8


def test_a_motion_clip_of_ones_own_leaves_stage_one_out():
    assert set(work(plan(has_motion=True))) == {"reference", "refine", "decode"}


def test_one_model_for_both_stages_needs_sides_that_fit_it_at_a_quarter():
    models = PlannedModels(
        motion=WAN22_TI2V_5B, motion_vae=WAN22_VAE, detail=WAN22_TI2V_5B, detail_vae=WAN22_VAE
    )
    assert plan(models=models).tokens_per_step == 17600
    with pytest.raises(GeometryError, match=r"multiples of 128; the nearest is 2560x1408"):
        plan(height=1344, models=models)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((81, 1400, 2560), "size 2560x1400 does not work: .* nearest is 2560x1408"),
        ((80, 1408, 2560), r"80 frames .* 4n\+1; the nearest is 81"),
        ((1, 1408, 2560), "1 frame is a picture, not a video; the shortest video has 5"),
        ((0, 1408, 2560), "0 frames"),
        ((81, 0, 2560), "size 2560x0 does not work"),
        ((81, -64, 2560), "size 2560x-64 does not work"),
    ],
)
def test_what_cannot_be_planned(size, message):
    with pytest.raises(GeometryError, match=message):
        plan(*size)


def test_as_data_and_in_words():
    made = plan(models=PUBLISHED_MODELS)
    data = json.loads(json.dumps(made.as_data()))
    assert data["segments"][6]["latent_frames"] == [0, 17, 18, 19, 20]
    assert data["segments"][6]["roles"] == ["anchor", "neighbor", "neighbor", "target", "target"]
    assert data["flops"] == sum(stage["flops"] for stage in data["work"])
    words = made.describe()
    assert "6: samples 19-20, sees 0, 17-18" in words
    assert "16.9 PFLOP" in words
    assert "28.6 GB Stage I (each expert), 10 GB Stage II" in words
    assert data["weights_nbytes"]["detail"] == pytest.approx(10.0e9, rel=0.005)
