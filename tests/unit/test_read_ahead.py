"""Files are read before their turn: the next model's, and never more than memory holds."""

from dataclasses import replace
from threading import Event

import pytest
import torch

import swift_core.memory.read_ahead as read_ahead
from swift_core.memory.read_ahead import ReadAhead, ReadingOrder
from swift_core.pipeline import generate
from tests.models import RUNTIME, small_models
from tests.unit.test_pipeline import SETTINGS


def write(path, nbytes=1000):
    path.write_bytes(bytes(nbytes))
    return path


def test_all_of_a_model_is_read(tmp_path):
    paths = [write(tmp_path / "a", 3000), write(tmp_path / "b", 500)]
    reading = ReadAhead(paths)
    reading.wait()
    assert reading.read_nbytes == 3500


def test_what_memory_cannot_hold_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(read_ahead, "free_host_nbytes", lambda: 1200)
    reading = ReadAhead([write(tmp_path / "a", 1000)])
    reading.wait()
    assert reading.read_nbytes == 0


def test_a_missing_file_is_no_matter(tmp_path):
    reading = ReadAhead([tmp_path / "nowhere"])
    reading.wait()
    assert reading.read_nbytes == 0


def test_it_reads_no_more_when_told_to_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(read_ahead, "_PIECE", 1000)
    begun, told = Event(), Event()

    class Slow(ReadAhead):
        def _read_file(self, path, piece):
            super()._read_file(path, piece)
            begun.set()
            assert told.wait(60)

    reading = Slow([write(tmp_path / "a", 3000), write(tmp_path / "b", 5000)])
    assert begun.wait(60)
    reading._stop.set()  # as stop() does, which would wait for the thread
    told.set()
    reading.stop()
    assert reading.read_nbytes == 3000


@pytest.fixture
def started(monkeypatch):
    """Note what is read, in order."""
    names = []

    class Noted(ReadAhead):
        def __init__(self, paths):
            paths = tuple(paths)
            names.append([path.name for path in paths])
            super().__init__(paths)

    monkeypatch.setattr(read_ahead, "ReadAhead", Noted)
    return names


def test_one_model_is_ahead_at_a_time(tmp_path, started):
    vae, high, low, detail = ((write(tmp_path / name),) for name in "vhld")
    order = ReadingOrder([(), vae, high, low, vae, detail])
    order.loaded(vae)
    order.loaded(())
    order.loaded(high)
    order.loaded(vae)  # its second turn comes later, its first is over
    assert started == [["h"], ["l"], ["d"]]
    order.loaded(low)
    order.loaded(detail)
    assert len(started) == 3
    order.stop()


def test_a_run_reads_what_comes_next(tmp_path, started):
    models = small_models()
    names = ("text", "motion_vae", "motion_high", "motion_low", "detail_vae", "detail")
    models = replace(
        models,
        **{name: replace(getattr(models, name), files=(write(tmp_path / name),)) for name in names},
    )
    picture = torch.rand(70, 90, 3)
    runtime = replace(RUNTIME, reads_ahead=True)
    list(generate(models, picture, SETTINGS, runtime=runtime))
    assert [name for [name] in started] == list(names[1:])
    started.clear()
    list(generate(models, picture, SETTINGS, runtime=RUNTIME))
    assert not started
