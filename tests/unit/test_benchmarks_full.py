"""The full-size benchmarks at small sizes: every part runs, and says what went wrong."""

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from benchmarks.full import caps, convolutions, marks, model_files, pieces, whole
from benchmarks.full.__main__ import main
from benchmarks.full.beside import shared_oracle
from benchmarks.full.caps import NO_CAP, run_words
from benchmarks.full.heard import heard, in_short
from benchmarks.full.machine import Machine, this_machine
from benchmarks.full.model_files import choose_files, write_models
from benchmarks.full.profiling import Profiler
from benchmarks.full.rows import Record, Row
from benchmarks.full.scale import FULL, SMALL
from benchmarks.full.stages import bandings
from benchmarks.full.table import make_table, read_parts
from benchmarks.full.watch import Watch
from benchmarks.full.weights import dit_slot, draw, nbytes_of, random_models, vae_slot
from benchmarks.full.whole import CONTEXT_NBYTES, GIB, WARM_UP, WHOLE_RUN, Cap, Job, run_whole
from swift_core.errors import CheckpointError, OutputError
from swift_core.memory.working import Step
from swift_core.model.scaled import ScaledLinear
from swift_core.precision import FP32
from swift_core.progress import Phase
from swift_core.vae.bands import WHOLE
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


def warning(models):
    """Let a set warn of something when its last model is loaded."""

    def load(precision):
        logging.getLogger("swift_core.memory").warning("out of memory: going on with less")
        return models.detail.load(precision)

    return replace(models, detail=replace(models.detail, load=load))


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
    levels = [(level.dim, *rest) for level, *rest in convolutions.decoder_levels(FULL)]
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
    assert written.nbytes > nbytes_of(stored)
    assert (read.motion_low.source == read.motion_high.source) == (not packed)
    again = write_models(TINY, MACHINE, tmp_path, packed=packed)
    assert again.nbytes == 0
    assert again.note.startswith("it was there")
    assert ("both experts in one file" in again.note) == (not packed)
    other = "fp8" if packed else "bf16"
    with pytest.raises(CheckpointError, match=f"add --experts {other}"):
        write_models(TINY, MACHINE, tmp_path, packed=not packed)


def test_a_set_that_was_cut_off_is_written_anew_and_no_others_model_is_touched(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
        (folder / "detail.safetensors").write_bytes(b"half")
    (ours / "unfinished").touch()
    assert write_models(TINY, MACHINE, ours, packed=True).nbytes > 0
    assert not (ours / "unfinished").exists()
    with pytest.raises(CheckpointError):
        write_models(TINY, MACHINE, theirs, packed=True)
    assert (theirs / "detail.safetensors").read_bytes() == b"half"


def test_files_are_chosen_by_the_room_on_the_disk(tmp_path, monkeypatch):
    sizes = {"motion_high": 14 * GIB, "motion_low": 14 * GIB, "detail": 10 * GIB}

    def choose(free_gib, *, two=True):
        free = SimpleNamespace(free=free_gib * GIB)
        monkeypatch.setattr(model_files.shutil, "disk_usage", lambda _: free)
        files, note = choose_files(sizes, tmp_path, two_experts=two)
        return files["motion_low"], note

    assert choose(40) == ("motion_low", "")
    assert choose(40, two=False) == ("motion_high", "both experts are one file")
    file, note = choose(30)
    assert file == "motion_high"
    assert "the disk has room for" in note
    with pytest.raises(OutputError, match=r"room for 21\.2 GB, a set of models takes 25\.8 GB"):
        choose(20)


def test_a_whole_run_has_a_row_for_each_phase_and_one_for_all(record, tmp_path):
    models = random_models(TINY, MACHINE, packed=True)
    job = Job(label="9 frames, test", models=warning(models), output=TINY.output)
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
    assert total["note"] == "out of memory: going on with less"
    assert not list(tmp_path.glob("*.mp4")), "the video is not kept"


def test_segments_that_are_decoded_between_are_told_from_those_that_are_sampled(
    record, tmp_path, monkeypatch
):
    now = 0

    def load(precision):
        dit = models.detail.load(precision)
        dit.register_forward_hook(tick)
        return dit

    def tick(*_):
        nonlocal now
        now += 1

    clock = SimpleNamespace(perf_counter=lambda: now)
    monkeypatch.setattr("benchmarks.full.watch.time", clock)
    monkeypatch.setattr("benchmarks.full.whole.time", clock)
    models = random_models(TINY, MACHINE, packed=True)
    slow = replace(models, detail=replace(models.detail, load=load))
    job = Job(label="test", models=slow, output=TINY.output_of(17), cap=Cap(gib=2))
    run_whole(job, record, tmp_path)

    rows = rows_of(record.path)
    assert "as soon as it is finished" in rows["test", "decode"]["facts"]["plan"]
    assert rows["test", "decode"]["facts"]["units"] == 5
    steps = models.detail_recipe.steps
    spent = {name: rows["test", name]["seconds"] for name in (*PHASES, WHOLE_RUN)}
    of_two_segments = {**dict.fromkeys(PHASES, 0), "refine": 2 * steps, WHOLE_RUN: 2 * steps}
    assert spent == of_two_segments


def test_a_cap_streams_what_does_not_fit_and_tells_the_plan(record, tmp_path):
    models = random_models(SMALL, MACHINE, packed=False)
    cap = Cap(gib=SMALL.caps_gib[0])
    job = Job(label="9 frames, test", models=models, output=SMALL.output, cap=cap)
    run_whole(job, record, tmp_path)

    rows = rows_of(record.path)
    refine = rows["9 frames, test", "refine"]
    assert refine["copied_nbytes"] > 0
    assert "streamed" in refine["facts"]["plan"]
    rate = refine["facts"]["copy_nbytes_per_second"]
    assert rate == pytest.approx(refine["copied_nbytes"] / refine["facts"]["copy_seconds"])
    assert refine["facts"]["planned_copied_nbytes"] > 0
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
out = {str(tmp_path)!r}
main(["end-to-end", "--small", "--cold", "--frames", "5", "--threads", "1", "--out", out])
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    row = rows_of(tmp_path / "end-to-end-fp8.json")["5 frames, fp8", WHOLE_RUN]
    assert row["error"] == ""
    assert "frames dropped" in row["note"]


def test_a_row_that_fails_stops_no_other(record):
    def broken():
        raise torch.cuda.OutOfMemoryError("no room\nlong story")

    assert not record.attempt("a", broken)
    assert record.attempt("b", lambda: Row(name="b", seconds=1.0))
    record.attempt("b", lambda: Row(name="b", seconds=2.0))
    data = json.loads(record.path.read_text())
    assert [(row["name"], row["seconds"], row["error"]) for row in data["rows"]] == [
        ("a", None, "OutOfMemoryError: no room"),
        ("b", 2.0, ""),
    ]
    assert data["complete"] is False
    record.complete()
    assert json.loads(record.path.read_text())["complete"] is True


def test_a_second_run_of_a_part_takes_nothing_from_the_first(record):
    record.put(Row(name="a"))
    paths = [Record(record.path, "end-to-end", TINY, MACHINE).path for _ in range(2)]
    assert [path.name for path in (record.path, *paths)] == [
        "part.json",
        "part-2.json",
        "part-3.json",
    ]
    assert ("", "a") in rows_of(record.path)
    began = [json.loads(path.read_text())["began"] for path in (record.path, *paths)]
    assert began == sorted(began)
    assert all(each.endswith("+00:00") for each in began)


def test_a_peak_is_that_of_the_steady_state():
    done = []

    class Watched(Machine):
        def reset_peak(self):
            done.append("reset")

    machine = Watched(device=MACHINE.device, compute=MACHINE.compute)
    machine.seconds_of(lambda: done.append("run"), repeats=2, warm_ups=2)
    assert done == ["run", "run", "reset", "run", "run"]


def test_what_the_core_warns_of_is_kept_in_short():
    log = logging.getLogger("swift_core.memory.streaming")
    with heard() as warnings:
        for words in ("a", "b", "b", "c" * 1000, "d", "e"):
            log.warning("%s", words)
        log.info("nothing")
    log.warning("too late")
    assert in_short(warnings) == f"a; b (2 times); {'c' * 160}; and 2 more"
    assert in_short([]) == ""


def test_a_stage_without_progress_is_no_phase():
    assert whole.phase_of("prompt") is None
    assert whole.phase_of("motion: decode") is Phase.MOTION_DECODE


def test_a_run_of_nothing_has_a_total():
    job = Job(label="x", models=None, output=TINY.output)
    row = whole._total(job, Watch(MACHINE, lambda _: None), 1.0, 0.0)
    assert (row.peak_nbytes, row.hidden_share) == (None, None)
    assert row.facts["wall_seconds"] == 1


def test_a_played_card_leaves_room_for_the_context_and_for_gaps():
    cap = Cap(gib=24)
    assert cap.room_nbytes == 24 * GIB - CONTEXT_NBYTES
    assert cap.budget_nbytes == pytest.approx(0.85 * cap.room_nbytes, abs=1)


def test_three_convolutions_of_pictures_are_one_over_time_as_well():
    draws = torch.Generator().manual_seed(0)
    features = torch.randn((1, 4, 5, 6, 7), generator=draws)
    weight = torch.randn((3, 4, 3, 3, 3), generator=draws)
    expected = F.conv3d(features, weight, padding=(0, 1, 1))
    torch.testing.assert_close(convolutions.in_planes(features, weight, frames=3), expected)


def test_all_algorithms_are_tried_on_a_shape_of_its_own(record, monkeypatch):
    seen = []

    def tried(_conv, features, _weight):
        seen.append((features.shape, torch.backends.cudnn.benchmark))

    monkeypatch.setattr(convolutions, "_convolve", tried)
    convolutions.measure_fastest(record, TINY, "level", 8, (2, 3, 4))
    assert set(seen) == {((1, 8, 4, 3, 20), True)}
    row = rows_of(record.path)["level", "conv3d, channels last, the fastest algorithm"]
    assert row["flops"] == 2 * 27 * 8**2 * 2 * 3 * 20


def test_a_block_is_compiled_as_the_product_does_it(record, monkeypatch):
    done = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: done.append("reset"))
    monkeypatch.setattr(torch, "compile", lambda run, **how: done.append(how) or run)
    what = pieces.windows(TINY)["motion"]
    for packed in (False, True):
        pieces.measure_block(record, TINY, "motion", what, packed=packed, compiles=True)
    assert done == ["reset", {"dynamic": False}] * 2
    names = [name for _, name in rows_of(record.path)]
    assert names[-1] == "8-bit weights, compiled"


def test_a_piece_that_cannot_be_made_stops_no_other(record, monkeypatch):
    one_block = pieces.one_block

    def broken(config, machine, *, packed):
        if packed:
            raise RuntimeError("no such block")
        return one_block(config, machine, packed=packed)

    monkeypatch.setattr(pieces, "one_block", broken)
    pieces.measure_pieces(record, TINY, compiles=False)
    rows = rows_of(record.path)
    failed = {key for key, row in rows.items() if row["error"]}
    assert failed == {
        ("motion: block in 8 bits", "set-up"),
        ("motion: parts of a block", "set-up"),
        ("detail: parts of a block", "set-up"),
    }
    for key in (
        ("motion: parts of a block", "feed-forward"),
        ("host, for 4 frames", "enlarging it with detail"),
        ("host, for 4 frames", "pixels from the device"),
        ("host, for 4 frames", "H.264, faint noise"),
    ):
        assert rows[key]["seconds"] > 0
    assert len([group for group, _ in rows if group.startswith("decoder level")]) > 4


def test_bands_are_those_of_the_product_which_has_its_weights_beside_them():
    config, shape, rooms = TINY.motion_vae, TINY.output, []

    def plan(*_, budget_nbytes, **__):
        rooms.append(budget_nbytes)
        return SimpleNamespace(banding=WHOLE)

    found = bandings(plan, replace(TINY, caps_gib=(2, 3)), config, shape, torch.float32)
    assert found == {WHOLE: "whole frames"}
    vae = vae_slot(config, MACHINE, name="x").load(FP32)
    weights = sum(parameter.nbytes for parameter in vae.parameters())
    assert rooms == [Cap(gib=gib).budget_nbytes - weights for gib in (2, 3)]


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


def made_part(rows, *, gpu="a card", began="", scale="full"):
    return {
        "part": "end-to-end",
        "scale": scale,
        "began": began,
        "command": "python -m benchmarks.full end-to-end",
        "machine": {"gpu": gpu, "packages": {}, "torch": "2", "commit": "abc"},
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


def names_of(parts):
    return [mark.name for mark in marks.judge(parts)]


def test_cards_are_judged_each_for_itself():
    base = made_part(run_rows(f"81 frames, fp8, {NO_CAP}", refine=20, decode=30, peak=29 * GIB))
    small = run_rows("81 frames, fp8, 24 GiB", refine=20, decode=45, peak=20 * GIB, cap=24)
    ratio = "81 frames, fp8, 24 GiB: at most 1.15 x the uncapped time"
    assert ratio in names_of([base, made_part(small)])
    found = names_of([base, made_part(small, gpu="another")])
    assert not [name for name in found if "uncapped time" in name]
    assert f"81 frames, fp8, {NO_CAP}: at most 60 s (first) (a card)" in found
    assert "81 frames, fp8, 24 GiB: at most 22 GiB (another)" in found
    tried = run_rows(f"9 frames, fp8, {NO_CAP}", refine=1, decode=1, peak=GIB, frames=9)
    found = names_of([base, made_part(tried, scale="small")])
    assert f"81 frames, fp8, {NO_CAP}: at most 60 s (first) (full)" in found


def test_the_latest_measurement_counts():
    group = f"81 frames, fp8, {NO_CAP}"
    early = made_part(run_rows(group, refine=90, decode=30, peak=29 * GIB), began="2026-01-01")
    late = made_part(run_rows(group, refine=20, decode=30, peak=29 * GIB), began="2026-01-02")
    for parts in ([early, late], [late, early]):
        first, *_ = [mark for mark in marks.judge(parts) if "(first)" in mark.name]
        assert first.figure.startswith("50.0 s")
        text = make_table(parts)
        assert "90.00" not in text
        assert text.count("### 81 frames") == 1
    # A run that was cut off is no measurement; one that failed is the latest word.
    cut = made_part(run_rows(group, refine=7, decode=30, peak=GIB)[:1], began="2026-01-03")
    assert any("(first)" in name for name in names_of([early, late, cut]))
    assert "7.00" not in make_table([late, cut])
    failed = made_part(cut["rows"], began="2026-01-04")
    failed["rows"] = [*cut["rows"], {**run_row(group, 50, GIB), "error": "no room"}]
    assert names_of([early, late, failed]) == []


def test_the_table_shows_all_parts_and_is_made_of_files(tmp_path):
    part = made_part(run_rows("81 frames, fp8", refine=20, decode=30, peak=29 * GIB))
    part["rows"][0]["facts"] = {"copy_nbytes_per_second": 55.1e9, "plan": "all blocks"}
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "end-to-end-fp8.json").write_text(json.dumps(part))
    (tmp_path / "other.json").write_text("[1]")
    parts = read_parts(tmp_path)
    assert parts == [part]
    text = make_table(parts)
    assert "| refine | 20.00 | 380.0 | 48.1% | 1.00 |" in text
    assert "**missed**" in text
    assert "a card; torch 2" in text
    assert "| copy_gigabytes_per_second 55.1, plan all blocks |" in text
    assert "mean nothing" not in text


def test_a_profile_names_the_costliest_operations(tmp_path):
    def broken():
        raise RuntimeError("no")

    profiler = Profiler(path=tmp_path / "new" / "profile.txt")
    numbers = torch.ones(64, 64)
    for name in ("first", "second"):
        assert profiler.look(name, lambda: numbers @ numbers, MACHINE) == ""
    assert "RuntimeError: no" in profiler.look("broken", broken, MACHINE)
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
    assert main(["stages", *out]) == 0
    assert main(["end-to-end", *out, "--cold", "--frames", "5", *models]) == 0
    assert main(["table", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for words in (
        "5 frames, fp8, from files, attention sdpa",
        "in memory already",
        "detail VAE: one chunk",
    ):
        assert words in text
    assert (tmp_path / "table.md").read_text() in text
    for path in tmp_path.glob("*.json"):
        data = json.loads(path.read_text())
        assert data["complete"]
        assert not [row for row in data["rows"] if row["error"]]


def test_capped_runs_from_files_are_held_against_the_uncapped_one(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.full.__main__.SMALL", TINY)
    words = ["end-to-end", "--small", "--frames", "5", "--out", str(tmp_path)]
    words += ["--models", str(tmp_path / "models")]
    assert main([*words, "--label", NO_CAP]) == 0
    assert main([*words, "--cap", "0.9", "--cold"]) == 0
    uncapped = rows_of(tmp_path / "end-to-end-fp8-from-files-no-cap.json")
    warm = uncapped["preparation, fp8, from files, no cap", WARM_UP]
    assert warm["facts"]["frames"] == TINY.warm_up_frames
    assert warm["seconds"] > 0
    capped = rows_of(tmp_path / "end-to-end-fp8-from-files-0.9-GiB.json")
    assert not [name for _, name in capped if name == WARM_UP]
    assert capped["preparation, fp8, from files, 0.9 GiB", "models"]["note"] == "it was there"
    names = names_of(read_parts(tmp_path))
    assert "5 frames, fp8, from files, 0.9 GiB: at most 1.15 x the uncapped time" in names
    assert not [name for name in names if WARM_UP in name or "preparation" in name]

    assert main([*words, "--experts", "bf16"]) == 1
    rows = rows_of(tmp_path / "end-to-end-bf16-from-files.json")
    assert "add --experts fp8" in rows["preparation, bf16, from files", "models"]["error"]


def test_runs_are_named_so_that_only_the_cap_differs():
    def words(**how):
        given = {"label": "", "cap_gib": None, "from_files": False, "words": "", **how}
        return ", ".join(["81 frames", *run_words("fp8", **given)])

    assert words() == "81 frames, fp8"
    assert words(words="--attention sage --fp8-products") == (
        "81 frames, fp8, attention sage fp8-products"
    )
    for how in ({}, {"words": "--attention sage"}, {"label": "sage"}, {"from_files": True}):
        label = ", ".join(filter(None, [how.get("label", ""), NO_CAP]))
        base, capped = words(**{**how, "label": label}), words(**how, cap_gib=24.0)
        run = {"group": capped, "facts": {"cap_gib": 24.0}}
        assert marks.uncapped_group(run) == base
        assert base.endswith(f", {NO_CAP}")


def test_caps_pass_on_what_their_runs_are_to_have(tmp_path, monkeypatch):
    asked = []

    def run(command, **_):
        asked.append(command[3:])
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(caps.subprocess, "run", run)
    words = ["caps", "--small", "--cold", "--label", "sage", "--with=--attention sage"]
    assert main([*words, "--caps", "2,3", "--out", str(tmp_path)]) == 0
    assert all("--cold" in words and "--with=--attention sage" in words for words in asked)
    assert [words[words.index("--label") + 1] for words in asked] == [
        "sage, no cap",
        "sage",
        "sage",
    ]
    assert [words[words.index("--cap") + 1] for words in asked[1:]] == ["2", "3"]
