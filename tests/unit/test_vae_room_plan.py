"""A plan where only VAEs are bounded: DiTs are placed by somebody else, who is named."""

import re

import pytest
import torch

from swift_core.errors import BudgetError
from swift_core.flow.recipe import Recipe, SolverName
from swift_core.geometry import PixelShape
from swift_core.segments.plan import SegmentSettings
from swift_core.stages.plan import plan_generation, planned_models
from swift_core.stages.resources import Resources
from swift_core.stages.run_plan import plan_run
from swift_core.vae.bands import WHOLE
from swift_core.vae.memory import VaePeak, VaePlan, decode_peak
from tests.models import small_models

RECIPE = Recipe(steps=2, cfg=1.0, sigma_shift=5.0, solver=SolverName.EULER)
MODELS = planned_models(small_models())


WEIGHTS = 1_000_000


def planner(what, nbytes_per_pixel):
    """Stand in for the search for bands: it takes so much, and no bands help."""

    def fit(_config, shape, *, compute, budget_nbytes, host_nbytes):
        assert host_nbytes is None
        assert compute is torch.float32
        working = nbytes_per_pixel * shape.height * shape.width
        peak = VaePeak(nbytes=WEIGHTS + working, state_nbytes=0, weights_nbytes=WEIGHTS)
        if working > budget_nbytes:
            raise BudgetError(
                f"{what} does not fit", share=budget_nbytes / working, least_nbytes=peak.nbytes
            )
        return VaePlan(banding=WHOLE, peak=peak)

    return fit


def plan(room, *, height=256, width=512, **more):
    made = plan_generation(
        PixelShape(pixel_frames=9, height=height, width=width),
        SegmentSettings(),
        models=MODELS,
        motion_recipe=RECIPE,
        detail_recipe=RECIPE,
        **more,
    )
    resources = Resources(vae_nbytes=room, dits="wherever their owner wants")
    return plan_run(MODELS, made, resources, compute=torch.float32)


def test_only_vaes_are_fitted_and_said():
    room = decode_peak(MODELS.detail_vae, 256, 512, torch.float32, WHOLE).working_nbytes
    memory = plan(2 * room).memory
    assert memory is not None
    assert list(memory.stages) == ["motion: decode", "reference", "decode"]
    assert {stage.words for stage in memory.stages.values()} == {"whole frames"}
    assert memory.budget_nbytes is None
    assert memory.between is None
    lines = memory.describe().splitlines()
    assert re.match(r"memory    \d\.\d GB for a VAE on the device, ", lines[0])
    assert lines[-1].strip() == "DiTs: wherever their owner wants"
    assert memory.as_data()["budget_nbytes"] is None
    given = plan(2 * room, has_motion=True).memory
    assert given is not None
    assert list(given.stages) == ["reference", "decode"]


@pytest.mark.parametrize(("encode", "decode"), [(1000, 3000), (3000, 1000)])
def test_the_stage_that_wants_most_is_refused_and_what_is_proposed_fits(
    monkeypatch, encode, decode
):
    monkeypatch.setattr("swift_core.stages.fit.plan_encode", planner("encoding", encode))
    monkeypatch.setattr("swift_core.stages.fit.plan_decode", planner("decoding", decode))
    least = 3000 * 256 * 512
    with pytest.raises(BudgetError) as refused:
        plan(least // 4)
    stage = "decode: decoding" if decode > encode else "reference: encoding"
    assert str(refused.value) == (
        f"{stage} does not fit. It would fit as 256x128, or where that much is free."
    )
    assert refused.value.least_nbytes == WEIGHTS + least
    plan(least // 4, height=128, width=256)
    plan(least)
    with pytest.raises(BudgetError):
        plan(least - 1)
    with pytest.raises(
        BudgetError, match=r"does not fit\. It would fit where that much is free\.$"
    ):
        plan(0)
