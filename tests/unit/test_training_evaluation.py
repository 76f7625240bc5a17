"""The evaluation end to end with a small set: every number, the tables, the picture."""

import json
import math
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from swift_core.media.pictures import load_picture
from swift_core.precision import FP32
from swift_core.stages.runtime import Runtime
from swift_core.weights.seeded import save_model_set, seeded_model_set
from tests.pictures import write_picture_cache
from training import evaluate
from training.data import ClipMaker
from training.evaluation import VARIANTS, Judge, VariantResult, compare, film_cases
from training.measure import psnr

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_picture_cache(tmp_path_factory.mktemp("pictures"), side=96)


@pytest.fixture(scope="module")
def cases(cache):
    clips = ClipMaker(seed=0, device=CPU, held_out=True, cache=cache)
    return film_cases(clips, evaluate._clip("64x64x9"))


def test_a_set_is_judged_and_written_down(cache, tmp_path, caplog):
    save_model_set(replace(seeded_model_set(), carry=0.5), tmp_path / "set")
    words = ["--models", tmp_path / "set", "--out", tmp_path / "out", "--pictures", cache]
    words += ["--size", "64x64x5", "--long", "64x64x29", "--seeds", "2"]
    assert evaluate.main([str(word) for word in words]) == 0
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    ways = ["bicubic", "carried", "VAE(bicubic)", "VAE(carried)", "Stage II", "VAE(truth)"]
    assert list(found["quality"]) == list(found["through_stage1"]) == ways
    quality = {way: found["quality"][way]["psnr"] for way in ways}
    assert quality["carried"] > quality["bicubic"] > quality["Stage II"]
    # Noise has gone through a Stage I that has learned nothing.
    assert found["through_stage1"]["bicubic"]["psnr"] < quality["bicubic"] - 3
    assert set(found["variants"]) == set(VARIANTS)
    for variant in found["variants"].values():
        assert len(variant["seeds"]) == len(variant["sharpness"]) == 2
        assert variant["seeds"][0] != variant["seeds"][1]
        assert variant["seeds"][0]["seam"] > 0
    text = (tmp_path / "out" / "evaluation.md").read_text()
    for name in (*found["quality"], *VARIANTS):
        assert f"| {name} |" in text
    # The plot is drawn where there is something to draw it with; `make test` does not install it.
    plot = tmp_path / "out" / "evaluation.png"
    assert plot.exists() == bool(find_spec("matplotlib"))
    if plot.exists():
        assert load_picture(plot).shape[2] == 3

    assert evaluate.main(["--models", str(tmp_path / "no"), "--out", str(tmp_path)]) == 1
    assert "is no folder" in caplog.text


def test_frame_0_of_plain_bicubic_is_the_picture_and_counts_apart(cases):
    true = cases[0].true
    made = true.clone()
    made[1:] = (made[1:] + 0.1).clamp(0, 1)
    numbers = compare(made, true)
    assert numbers["first"] == math.inf
    assert numbers["psnr"] == pytest.approx(psnr(made[1:], true[1:]))
    assert numbers["psnr"] == pytest.approx(20, abs=0.5)


def test_seeds_and_variants_are_all_that_differs(cases):
    judge = Judge(seeded_model_set(), runtime=Runtime(device=CPU, precision=FP32))
    reference = judge.reference(cases[0])
    how = VARIANTS["M=3, N=1"]
    with torch.inference_mode():
        one = judge.refine(cases[0], reference, how, seed=1)
        again = judge.refine(cases[0], reference, how, seed=1)
        other = judge.refine(cases[0], reference, how, seed=2)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(one[0], other[0])


def test_spread_is_over_seeds():
    rows = [{"psnr": 30.0}, {"psnr": 31.0}, {"psnr": 32.0}]
    result = VariantResult(numbers=rows, sharpness=[[1.0]] * 3)
    assert result.spread("psnr") == (31.0, 1.0)
    assert VariantResult(numbers=rows[:1], sharpness=[[1.0]]).spread("psnr") == (30.0, 0.0)
