"""The full-size benchmarks at small sizes: every part runs, and says what went wrong."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from benchmarks.full import marks, pieces
from benchmarks.full.__main__ import main
from benchmarks.full.beside import shared_oracle
from benchmarks.full.caps import NO_CAP
from benchmarks.full.machine import this_machine
from benchmarks.full.profiling import Profiler
from benchmarks.full.rows import Record, Row
from benchmarks.full.scale import FULL, SMALL
from benchmarks.full.table import make_table, read_parts
from benchmarks.full.weights import dit_slot, draw, nbytes_of, random_models, write_models
from benchmarks.full.whole import CONTEXT_NBYTES, GIB, WHOLE_RUN, Cap, Job, run_whole
from swift_core.memory.working import Step
from swift_core.model.scaled import ScaledLinear
from swift_core.precision import FP32
from swift_core.weights.model_set import open_model_set

ROOT = Path(__file__).parents[2]
MACHINE = this_machine()
PHASES = ["motion: picture", "motion", "motion: decode", "reference", "refine", "decode"]
TINY = replace(
    SMALL,
    motion=replace(SMALL.motion, dim=128, heads=1, layers=2, ffn_dim=128),
    detail=replace(SMALL.detail, dim=128, heads=1, layers=2, ffn_dim=128),
    caps_gib=(),
    ceiling_side=32,
    repeats=1,
)


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "part.json", "end-to-end", TINY, MACHINE)


def rows_of(path):
    return {(row["group"], row["name"]): row for row in json.loads(path.read_text())["rows"]}


def forward(dit):
    config = dit.config
    with torch.inference_mode():
        draws = torch.Generator().manual_seed(0)
        latent = torch.randn((1, config.in_channels, 2, 4, 4), generator=draws)
        text = torch.randn((1, 3, config.text_dim), generator=draws)
        return dit(latent, torch.tensor([[0.0, 900.0]]), dit.read_prompt(text), positions=range(2))


def test_full_size_windows_are_those_of_the_published_models():
    found = pieces.windows(FULL)
    tokens = {
        name: window.latent_frames * window.tokens_per_frame(config.patch)
        for name, (config, window) in found.items()
    }
    assert tokens == {"motion": 18_480, "detail": 17_600}
    levels = [(level.dim, *rest) for level, *rest in pieces.decoder_levels(FULL)]
    assert levels == [
        (1024, 1, 88, 160),
        (1024, 2, 176, 320),
        (512, 4, 352, 640),
        (256, 4, 704, 1280),
    ]


@pytest.mark.parametrize("packed", [False, True])
def test_random_weights_keep_what_comes_out_in_range(packed):
    slot = dit_slot(TINY.motion, MACHINE, packed=packed, name="x")
    dit = slot.load(FP32)
    out = forward(dit)
    assert out.isfinite().all()
    assert 0.01 < out.std() < 100
    scaled = [name for name, layer in dit.named_modules() if isinstance(layer, ScaledLinear)]
    assert len(scaled) == (10 * TINY.motion.layers if packed else 0)
    assert all(name.startswith("blocks.") for name in scaled)


def test_blocks_share_the_drawn_numbers_but_are_parameters_of_their_own():
    dit = dit_slot(TINY.detail, MACHINE, packed=False, name="x").load(FP32)
    first, second = (block.ffn[0].weight for block in dit.blocks)
    assert first is not second
    assert first.data_ptr() == second.data_ptr()
    moved = dit.to(torch.float64)
    assert moved.blocks[0].ffn[0].weight.data_ptr() != moved.blocks[1].ffn[0].weight.data_ptr()


@pytest.mark.parametrize("packed", [False, True])
def test_written_models_are_the_ones_in_memory(packed, tmp_path):
    written = write_models(TINY, MACHINE, tmp_path, packed=packed)
    read, made = open_model_set(tmp_path), random_models(TINY, MACHINE, packed=packed)
    for name in ("motion_high", "motion_low", "detail"):
        ours, theirs = getattr(read, name), getattr(made, name)
        assert (ours.packed_nbytes is None) == (theirs.packed_nbytes is None)
        assert torch.equal(forward(ours.load(FP32)), forward(theirs.load(FP32)))
    stored = draw(TINY.motion, precision=FP32, packed=packed, device=MACHINE.device)
    assert written > nbytes_of(stored)
    assert (read.motion_low.source == read.motion_high.source) == (not packed)
    assert write_models(TINY, MACHINE, tmp_path, packed=packed) == 0


def test_a_whole_run_has_a_row_for_each_phase_and_one_for_all(record, tmp_path):
    models = random_models(TINY, MACHINE, packed=True)
    job = Job(label="9 frames, test", models=models, output=TINY.output)
    run_whole(job, record, tmp_path)

    rows = rows_of(record.path)
    assert [name for _, name in rows] == [*PHASES, WHOLE_RUN]
    for name in PHASES:
        row = rows["9 frames, test", name]
        assert row["seconds"] > 0
        assert row["flops"] > 0
    for name in ("motion", "reference", "refine", "decode"):
        assert rows["9 frames, test", name]["load_seconds"] > 0, "its model is loaded in it"
    total = rows["9 frames, test", WHOLE_RUN]
    facts = total["facts"]
    spent = total["seconds"] + total["load_seconds"] + total["write_seconds"]
    assert spent == pytest.approx(facts["wall_seconds"])
    assert total["flops"] == sum(rows["9 frames, test", name]["flops"] for name in PHASES)
    assert facts["video_nbytes"] > 0
    assert not list(tmp_path.glob("*.mp4")), "the video is not kept"


def test_a_cap_streams_what_does_not_fit_and_tells_the_plan(record, tmp_path):
    models = random_models(SMALL, MACHINE, packed=False)
    cap = Cap(gib=SMALL.caps_gib[0])
    job = Job(label="9 frames, test", models=models, output=SMALL.output, cap=cap)
    run_whole(job, record, tmp_path)

    rows = rows_of(record.path)
    assert rows["9 frames, test", "refine"]["copied_nbytes"] > 0
    for name in ("motion", "reference", "refine", "decode"):
        assert 0 < rows["9 frames, test", name]["predicted_nbytes"] <= cap.budget_nbytes
    assert rows["9 frames, test", WHOLE_RUN]["facts"]["cap_gib"] == cap.gib


def test_a_run_that_cannot_be_keeps_its_reason(record, tmp_path):
    models = random_models(TINY, MACHINE, packed=True)
    job = Job(label="test", models=models, output=replace(TINY.output, width=100))
    record.attempt(WHOLE_RUN, lambda: run_whole(job, record, tmp_path), group="test")
    assert "GeometryError" in rows_of(record.path)["test", WHOLE_RUN]["error"]


def test_without_pyav_all_but_the_file_is_measured(tmp_path):
    """As on a machine that has PyTorch and little else."""
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: None if name.startswith("av") else find(name, *more)
from benchmarks.full.__main__ import main
main(["end-to-end", "--small", "--frames", "5", "--threads", "1", "--out", {str(tmp_path)!r}])
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    row = rows_of(tmp_path / "end-to-end-fp8.json")["5 frames, fp8", WHOLE_RUN]
    assert row["error"] == ""
    assert "frames dropped" in row["note"]


def test_a_row_that_fails_stops_no_other(record):
    def broken():
        raise torch.cuda.OutOfMemoryError("no room\nlong story")

    record.attempt("a", broken)
    record.attempt("b", lambda: Row(name="b", seconds=1.0))
    record.attempt("b", lambda: Row(name="b", seconds=2.0))
    data = json.loads(record.path.read_text())
    assert [(row["name"], row["seconds"], row["error"]) for row in data["rows"]] == [
        ("a", None, "OutOfMemoryError: no room"),
        ("b", 2.0, ""),
    ]
    assert data["complete"] is False
    record.complete()
    assert json.loads(record.path.read_text())["complete"] is True


def test_a_played_card_leaves_room_for_the_context_and_for_gaps():
    cap = Cap(gib=24)
    assert cap.room_nbytes == 24 * GIB - CONTEXT_NBYTES
    assert cap.budget_nbytes == pytest.approx(0.85 * cap.room_nbytes, abs=1)


def test_three_convolutions_of_pictures_are_one_over_time_as_well():
    draws = torch.Generator().manual_seed(0)
    features = torch.randn((1, 4, 5, 6, 7), generator=draws)
    weight = torch.randn((3, 4, 3, 3, 3), generator=draws)
    expected = F.conv3d(features, weight, padding=(0, 1, 1))
    torch.testing.assert_close(pieces.in_planes(features, weight, frames=3), expected)


@pytest.mark.oracle
@pytest.mark.parametrize("channels", [36, 48])
def test_diffusers_gets_our_very_weights(channels):
    pytest.importorskip("diffusers")
    config = replace(TINY.detail, in_channels=channels, out_channels=48 if channels == 48 else 16)
    dit = dit_slot(config, MACHINE, packed=False, name="x").load(FP32)
    oracle = shared_oracle(dit)
    assert oracle.blocks[1].ffn.net[2].weight.data_ptr() == dit.blocks[1].ffn[2].weight.data_ptr()
    draws = torch.Generator().manual_seed(0)
    latent = torch.randn((1, channels, 2, 4, 4), generator=draws)
    text = torch.randn((1, config.text_tokens, config.text_dim), generator=draws)
    with torch.inference_mode():
        prompt = dit.read_prompt(text)
        ours = dit(latent, torch.full((1, 2), 900.0), prompt, positions=range(2))
        theirs = oracle(latent, torch.tensor([900.0]), text, return_dict=False)[0]
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_the_memory_of_a_step_is_told_with_its_weights():
    slot = dit_slot(TINY.motion, MACHINE, packed=True, name="x")
    weights = sum(parameter.nbytes for parameter in slot.load(FP32).parameters())
    assert slot.packed_nbytes == pytest.approx(weights, rel=0.01)
    _, window = pieces.windows(TINY)["motion"]
    assert Step(window=window).nbytes(TINY.motion, compute=torch.float32) > 0


def run_row(group, seconds, peak, *, cap=None, frames=81):
    facts = {"wall_seconds": seconds, "frames": frames, "wall_seconds_per_frame": seconds / frames}
    if cap:
        facts["cap_gib"] = cap
    return made_row(group, WHOLE_RUN, seconds, peak, flops=17e15, facts=facts)


def made_row(group, name, seconds, peak, *, flops, facts=None, predicted=None):
    empty = dict.fromkeys(("reserved_nbytes", "host_nbytes", "hidden_share"))
    return {
        **empty,
        "name": name,
        "group": group,
        "seconds": seconds,
        "flops": flops,
        "load_seconds": 1.0,
        "write_seconds": 0.0,
        "peak_nbytes": peak,
        "predicted_nbytes": predicted,
        "copied_nbytes": 0,
        "facts": facts or {},
        "note": "",
        "error": "",
    }


def made_part(rows):
    return {
        "part": "end-to-end",
        "scale": "full",
        "command": "python -m benchmarks.full end-to-end",
        "machine": {"gpu": "a card", "packages": {}, "torch": "2", "commit": "abc"},
        "ceiling_flops": 790e12,
        "complete": True,
        "rows": rows,
    }


def run_rows(group, *, refine, decode, peak, **facts):
    return [
        made_row(group, "refine", refine, peak, flops=7.6e15, predicted=peak),
        made_row(group, "decode", decode, peak - GIB, flops=5.4e15, predicted=int(peak * 0.8)),
        run_row(group, refine + decode, peak, **facts),
    ]


def test_marks_are_judged_and_the_stage_to_blame_is_named():
    base = run_rows(f"81 frames, fp8, {NO_CAP}", refine=20, decode=30, peak=29 * GIB)
    small = run_rows("81 frames, fp8, 24 GiB", refine=20, decode=45, peak=20 * GIB, cap=24)
    long = run_rows(f"241 frames, fp8, {NO_CAP}", refine=60, decode=120, peak=29 * GIB, frames=241)
    found = {mark.name: mark for mark in marks.judge([made_part(base + small + long)])}

    first = found[f"81 frames, fp8, {NO_CAP}: at most 60 s (first)"]
    assert first.is_met
    aim = found[f"81 frames, fp8, {NO_CAP}: at most 36 s (aim)"]
    assert not aim.is_met
    assert "lowest share: decode (22.8%" in aim.why
    assert not any(name.startswith("241 frames") for name in found), "the marks are for 81"
    assert found["81 frames, fp8, 24 GiB: at most 22 GiB"].is_met
    slower = found["81 frames, fp8, 24 GiB: at most 1.15 x the uncapped time"]
    assert (slower.figure, slower.is_met) == ("1.300 x", False)
    assert "decode (+15.0 s" in slower.why
    told = found["81 frames, fp8, 24 GiB: predicted memory within 10%"]
    assert (told.is_met, told.why) == (False, "worst: decode")
    span = f"81 to 241 frames, fp8, {NO_CAP}"
    assert found[f"{span}: memory within 2%"].is_met
    slow = found[f"{span}: seconds per frame within 5%"]
    assert not slow.is_met
    assert "decode +34.4%" in slow.why


def test_the_table_shows_all_parts_and_is_made_of_files(tmp_path):
    part = made_part(run_rows("81 frames, fp8", refine=20, decode=30, peak=29 * GIB))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "end-to-end-fp8.json").write_text(json.dumps(part))
    (tmp_path / "other.json").write_text("[1]")
    parts = read_parts(tmp_path)
    assert parts == [part]
    text = make_table(parts)
    assert "| refine | 20.00 | 380.0 | 48.1% | 1.00 |" in text
    assert "**missed**" in text
    assert "a card; torch 2" in text
    assert "mean nothing" not in text


def test_a_profile_names_the_costliest_operations(tmp_path):
    profiler = Profiler(path=tmp_path / "new" / "profile.txt")
    numbers = torch.ones(64, 64)
    for name in ("first", "second"):
        profiler.look(name, lambda: numbers @ numbers, MACHINE)
    text = (tmp_path / "new" / "profile.txt").read_text()
    assert "# first" in text
    assert "# second" in text
    assert text.count("aten::mm") >= 4
    Profiler(path=None).look("third", lambda: pytest.fail("nothing is run"), MACHINE)


def test_commands_write_their_parts_and_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.full.__main__.SMALL", TINY)
    assert main(["table", "--out", str(tmp_path)]) == 1
    out = ["--small", "--out", str(tmp_path)]
    assert main(["files", *out]) == 0
    models = ["--models", str(tmp_path / "models"), "--with=--attention sdpa"]
    assert main(["end-to-end", *out, "--frames", "5", *models]) == 0
    assert main(["stages", *out]) == 0
    assert main(["table", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for words in ("5 frames, fp8, from files", "in memory already", "detail VAE: one chunk"):
        assert words in text
    assert (tmp_path / "table.md").read_text() in text
    for path in tmp_path.glob("*.json"):
        data = json.loads(path.read_text())
        assert data["complete"]
        assert not [row for row in data["rows"] if row["error"]]
