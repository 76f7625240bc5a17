"""A real ComfyUI for the tests of this folder, or one line that says why there is none."""

from contextlib import ExitStack
from functools import partial

import pytest

from tests.host.browser import Browser, NoBrowserError
from tests.host.finding import NoHostError, find_host
from tests.host.inside import run_inside
from tests.host.server import Server

_absent: list[str] = []


@pytest.fixture(scope="session")
def host():
    """The ComfyUI to test in."""
    try:
        return find_host()
    except NoHostError as reason:
        _absent[:] = [str(reason)]
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def server(host, tmp_path_factory):
    """One ComfyUI for the whole run, with the pack and the tests' own nodes in it."""
    with Server(host, tmp_path_factory.mktemp("comfyui")) as running:
        yield running


@pytest.fixture(scope="session")
def browser():
    """A browser for the page."""
    try:
        opened = Browser()
    except NoBrowserError as reason:
        _absent[:] = [str(reason)]
        pytest.skip(str(reason))
    with opened:
        yield opened


@pytest.fixture
def start_server(host, tmp_path_factory):
    """Start further servers, with options of ComfyUI's main.py; they end with the test."""
    with ExitStack() as running:

        def start(*options):
            base = tmp_path_factory.mktemp("comfyui")
            return running.enter_context(Server(host, base, *options))

        yield start


@pytest.fixture
def inside(host, tmp_path):
    """Run a few lines inside ComfyUI: `inside("result = …", name=value)`; see `run_inside`."""
    return partial(run_inside, host, tmp_path)


def pytest_terminal_summary(terminalreporter):
    for reason in _absent:
        terminalreporter.write_line(f"host tests skipped: {reason}")
