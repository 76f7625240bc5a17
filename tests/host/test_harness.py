"""The harness itself: it must not call good what went wrong."""

import pytest
import torch

from swift_core.media.pictures import save_picture
from tests.host.graph import Graph
from tests.host.outcome import GraphError
from tests.host.server import Server

pytestmark = pytest.mark.host


def steps(graph, count=4, *, seconds_per_step=0.0, fail_at=-1):
    return graph.add(
        "HostTestSteps", steps=count, seconds_per_step=seconds_per_step, fail_at=fail_at
    )


def test_tensors_pass_through_unchanged(server):
    picture = torch.rand(2, 8, 16, 3, generator=torch.Generator().manual_seed(0))
    latent = {"samples": torch.arange(48.0).reshape(1, 48, 1, 1, 1), "noise_mask": torch.ones(1, 1)}
    graph = Graph()
    graph.keep(server.give(graph, picture, "picture"), "picture")
    graph.keep(server.give(graph, latent, "latent"), "latent")
    kept = server.run(graph).kept
    assert torch.equal(kept["picture"], picture)
    assert kept["latent"].keys() == latent.keys()
    assert torch.equal(kept["latent"]["samples"], latent["samples"])


def test_given_tensors_enter_typed_inputs(server):
    """And what is given again under the same name is read again."""
    for level in (0.25, 0.75):
        graph = Graph()
        given = server.give(graph, torch.full((1, 4, 4, 3), level), "same")
        graph.keep(graph.add("ImageInvert", image=given)[0], "inverted")
        assert server.run(graph).kept["inverted"].unique().tolist() == [1 - level]


def test_a_video_is_kept_with_its_parts(server):
    graph = Graph()
    pictures = graph.add("EmptyImage", width=32, height=16, batch_size=5, color=0)
    graph.keep(graph.add("CreateVideo", images=pictures[0], fps=16.0)[0], "video")
    video = server.run(graph).kept["video"]
    assert video["images"].shape == (5, 16, 32, 3)
    assert video["frame_rate"] == 16.0


def test_files_go_in_and_come_out(server, tmp_path):
    save_picture(torch.full((32, 48, 3), 0.5), tmp_path / "grey.png")
    graph = Graph()
    loaded = graph.add("LoadImage", image=server.upload_image(tmp_path / "grey.png"))
    saved = graph.add("SaveImage", images=loaded[0], filename_prefix="grey")
    graph.keep(loaded[0], "loaded")
    outcome = server.run(graph)
    assert outcome.kept["loaded"].sub(0.5).abs().max() < 1 / 255
    (file,) = outcome.files(saved.id)
    assert server.view(file).startswith(b"\x89PNG")


def test_progress_and_previews_are_heard(server):
    graph = Graph()
    working = steps(graph, 4)
    outcome = server.run(graph)
    assert outcome.executed == [working.id]
    assert [value for value, of in outcome.progress(working.id) if of == 4] == [1, 2, 3, 4]
    assert len(outcome.previews) == 4
    for preview in outcome.previews:
        assert preview.data["node_id"] == working.id
        assert preview.image.startswith(b"\xff\xd8")


def test_what_is_known_does_not_run_again(server):
    graph = Graph()
    picture = graph.add("EmptyImage", width=24, height=24, batch_size=1, color=1)
    inverted = graph.add("ImageInvert", image=picture[0])
    graph.keep(inverted[0], "first")
    assert picture.id in server.run(graph).executed
    graph.keep(inverted[0], "second")
    second = server.run(graph)
    assert picture.id not in second.executed
    assert torch.equal(second.kept["first"], second.kept["second"])


def test_a_failure_is_raised_with_its_place(server):
    graph = Graph()
    working = steps(graph, fail_at=2)
    with pytest.raises(GraphError, match="told to fail at step 2") as raised:
        server.run(graph)
    assert (raised.value.failure.kind, raised.value.failure.node_id) == ("failed", working.id)
    assert any("in execute" in note for note in raised.value.__notes__)


def test_a_failure_can_be_looked_at(server):
    graph = Graph()
    working = steps(graph, fail_at=2)
    outcome = server.run(graph, check=False)
    assert outcome.error.kind == "failed"
    assert outcome.error.details["exception_type"] == "ValueError"
    assert len(outcome.previews) == 2
    assert outcome.outputs.get(working.id) is None


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"steps": 0, "seconds_per_step": 0.0, "fail_at": -1}, "HostTestSteps: .*min"),
        ({"steps": 1, "seconds_per_step": 0.0}, "HostTestSteps: .*fail_at"),
    ],
)
def test_a_refusal_says_where_and_why(server, inputs, said):
    graph = Graph()
    node = graph.add("HostTestSteps", **inputs)
    with pytest.raises(GraphError, match=said) as raised:
        server.run(graph)
    assert (raised.value.failure.kind, raised.value.failure.node_id) == ("refused", node.id)
    assert server.run(graph, check=False).error == raised.value.failure


def test_an_unknown_node_is_refused(server):
    graph = Graph()
    graph.add("NoSuchNode")
    with pytest.raises(GraphError, match="NoSuchNode"):
        server.run(graph)


def test_a_run_can_be_interrupted(server):
    graph = Graph()
    working = steps(graph, 1000, seconds_per_step=0.02)
    with server.client() as client:
        run = client.queue(graph.prompt)
        client.until(lambda message: message.type == "preview")
        client.interrupt(run)
        outcome = client.wait(run)
    assert outcome.error.kind == "interrupted"
    assert outcome.error.node_id == working.id
    assert len(outcome.previews) < 1000


def test_a_run_that_takes_too_long_is_stopped(server):
    graph = Graph()
    steps(graph, 1000, seconds_per_step=0.02)
    with pytest.raises(TimeoutError, match="not within") as raised:
        server.run(graph, timeout=0.5)
    assert any("log ends with" in note for note in raised.value.__notes__)
    assert server.run(good := one_step(), timeout=60).executed == list(good.prompt)


def one_step():
    graph = Graph()
    steps(graph, 1)
    return graph


def test_a_server_that_dies_shows_its_last_words(host, tmp_path):
    with (
        pytest.raises(RuntimeError, match="unrecognized arguments: --no-such-option"),
        Server(host, tmp_path, "--no-such-option"),
    ):
        pass


def test_lines_run_inside_comfyui(inside):
    said = inside(
        """
        assert comfy.model_management.get_torch_device().type == "cpu"
        result = ["KSampler" in NODES, pack.__file__, folder_paths.models_dir, number + 1]
        """,
        number=41,
    )
    assert said[0] is True
    assert said[1].endswith("__init__.py")
    assert "test_lines_run_inside" in said[2]
    assert said[3] == 42


def test_what_raises_inside_comfyui_fails_the_test(inside, monkeypatch):
    monkeypatch.setattr("tests.host.inside.PRELUDE", "")  # without ComfyUI's imports: quicker
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        inside("1 / 0")
