"""A wrong file in any slot gets one sentence, before anything large is read."""

from dataclasses import replace

import pytest

from swift_core.model.config import WAN22_I2V_A14B, WAN22_TI2V_5B
from swift_core.vae.config import WAN21_VAE, WAN22_VAE
from swift_core.weights.detect import expected_shapes
from swift_core.weights.layouts import dit_to_diffusers
from tests.host.graph import Graph
from tests.sparse import write_sparse

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("folders")]

SMALL = {"dim": 128, "heads": 1, "ffn_dim": 256, "layers": 2}
A14B = expected_shapes(replace(WAN22_I2V_A14B, **SMALL))
TI2V = expected_shapes(replace(WAN22_TI2V_5B, **SMALL))
T2V = expected_shapes(replace(WAN22_I2V_A14B, **SMALL, in_channels=16))
UMT5 = {
    "shared.weight": (256384, 4096),
    "encoder.block.0.layer.0.SelfAttention.q.weight": (4096, 4096),
    "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight": (32, 64),
}


def lora(width):
    name = "diffusion_model.blocks.0.self_attn.q"
    return {f"{name}.lora_A.weight": (8, width), f"{name}.lora_B.weight": (width, 8)}


def in_diffusers(shapes):
    names = dit_to_diffusers(shapes)
    return {names[name]: shape for name, shape in shapes.items()}


CHOSEN = {
    "models": "my files",
    "motion_high": "a14b.safetensors",
    "motion_low": "a14b.safetensors",
    "motion_vae": "wan21.safetensors",
    "detail": "ti2v.safetensors",
    "detail_vae": "wan22.safetensors",
}
"""Right ones."""


@pytest.fixture(scope="module")
def folders(server):
    """Files of every kind in every folder, without their data."""
    models = server.base / "models"
    whole = {
        "a14b": A14B,
        "ti2v": TI2V,
        "t2v": T2V,
        "diffusers": in_diffusers(TI2V),
        "wan21": expected_shapes(WAN21_VAE),
        "wan22": expected_shapes(WAN22_VAE),
        "umt5": UMT5,
        "lora128": lora(128),
        "lora5120": lora(5120),
        "foreign": {"model.weight": (3, 4)},
    }
    written = []
    for folder in ("diffusion_models", "vae", "loras", "text_encoders"):
        (models / folder).mkdir(exist_ok=True)
        for name, shapes in whole.items():
            path = write_sparse(models / folder / f"{name}.safetensors", shapes)
            written.append(path)
        text = models / folder / "text.safetensors"
        text.write_text("Put your models here.\n")
        pointer = models / folder / "pointer.safetensors"
        pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        page = models / folder / "page.safetensors"
        page.write_text("<!DOCTYPE html><html><body>Not found</body></html>")
        cut = write_sparse(models / folder / "cut.safetensors", TI2V)
        with cut.open("r+b") as file:
            file.truncate(cut.stat().st_size - 1000)
        lacking = dict(TI2V)
        del lacking["blocks.1.ffn.2.bias"]
        written += [
            text,
            pointer,
            page,
            cut,
            write_sparse(models / folder / "lacking.safetensors", lacking),
        ]
    yield models
    for path in written:
        path.unlink()


def load(server, **changes):
    graph = Graph()
    loaded = graph.add("LoadSwiftModels", **CHOSEN | changes)
    graph.keep(loaded[0], "motion")
    outcome = server.run(graph, check=False)
    assert outcome.error, "it was taken"
    assert outcome.error.node_id == loaded.id
    return outcome.error


IS = {
    "a14b": "is a custom Wan DiT (a DiT with 36 input channels, 2 blocks, width 128)",
    "ti2v": "is a custom Wan DiT (a DiT with 48 input channels, 2 blocks, width 128)",
    "t2v": "is a custom Wan DiT (a DiT with 16 input channels, 2 blocks, width 128)",
    "wan21": "is a Wan2.1 VAE (a VAE with 16 latent channels, 8x8x4 compression)",
    "wan22": "is a Wan2.2 VAE (a VAE with 48 latent channels, 16x16x4 compression)",
    "umt5": "is a UMT5 text encoder (a text encoder of 1 blocks, width 4096, 256384 tokens)",
    "lora128": "is a LoRA (for a model of width 128, rank 8)",
    "lora5120": "is a LoRA (for a Wan 14B model, Wan2.2 A14B experts, Wan2.1-14B, rank 8)",
    "foreign": "is an unknown file (1 tensors, the first being model.weight; looked for a LoRA,",
}
LORA = "a LoRA for {}.safetensors, width 128,"
WRONG = {
    "motion_high": (
        "an image-to-video DiT (36 or 48 input channels)",
        ("t2v", "wan21", "wan22", "umt5", "lora5120", "foreign"),
    ),
    "motion_low": ("the other expert of a14b.safetensors", ("ti2v", "wan21", "lora5120")),
    "motion_vae": ("wan_2.1_vae (16 channels)", ("a14b", "wan22", "lora128", "foreign")),
    "detail": ("a DiT with 48 or 96 input channels", ("a14b", "wan22", "umt5", "lora128")),
    "detail_vae": ("wan2.2_vae (48 channels)", ("ti2v", "wan21", "umt5", "foreign")),
    "text_encoder": (
        "UMT5 (umt5_xxl_fp8_e4m3fn_scaled.safetensors)",
        ("ti2v", "wan22", "lora128", "foreign"),
    ),
    "motion_high_lora": (LORA.format("a14b"), ("a14b", "wan21", "lora5120", "foreign")),
    "motion_low_lora": (LORA.format("a14b"), ("umt5", "lora5120")),
    "detail_lora": (LORA.format("ti2v"), ("ti2v", "lora5120")),
}
"""What belongs into each slot, and what does not."""


@pytest.mark.parametrize(
    ("slot", "file"), [(slot, file) for slot, (_, files) in WRONG.items() for file in files]
)
def test_a_file_of_another_kind(server, slot, file):
    said = load(server, **{slot: f"{file}.safetensors"}).message
    assert said.startswith(f"{slot}: {file}.safetensors {IS[file]}")
    assert said.endswith(f", but {WRONG[slot][0]} belongs here; choose another file.")
    assert "\n" not in said


BROKEN = {
    "text": " is not a safetensors file: its first bytes announce a header of ",
    "pointer": " is a Git LFS pointer, not the file that it stands for; run `git lfs pull`",
    "page": " is a web page, not a model: the download went wrong; download it again.",
    "cut": "it looks half-downloaded; download it again.",
    "lacking": ".safetensors lacks 1 tensors, the first is blocks.1.ffn.2.bias; download it again.",
    "diffusers": (
        ".safetensors is a custom Wan DiT as diffusers names its tensors, which ComfyUI does not "
        "read; choose the file that Comfy-Org has repackaged."
    ),
}


@pytest.mark.parametrize(
    ("slot", "file"),
    [(slot, file) for slot in WRONG for file in ("text", "pointer", "page", "cut")]
    + [("motion_high", "diffusers"), ("detail", "diffusers"), ("detail", "lacking")],
)
def test_a_broken_file(server, slot, file):
    said = load(server, **{slot: f"{file}.safetensors"}).message
    assert said.startswith(f"{slot}: ")
    assert f"{file}.safetensors" in said
    assert BROKEN[file] in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"motion_high": "none"},
            "motion_low is chosen without motion_high: one model alone belongs in motion_high.",
        ),
        (
            {"motion_vae": "none"},
            "motion_vae is none: choose wan_2.1_vae (16 channels) from ComfyUI's vae folder.",
        ),
        (
            {"motion_high": "ti2v.safetensors", "motion_low": "none"},
            f"motion_vae: wan21.safetensors {IS['wan21']}, but wan2.2_vae (48 channels) belongs "
            "here; choose another file.",
        ),
        (
            {"detail_vae": "none"},
            "detail_vae is none: choose wan2.2_vae (48 channels) from ComfyUI's vae folder.",
        ),
        (
            {slot: "none" for slot in CHOSEN if slot != "models"},
            'no file is chosen: choose motion_high and detail, or set models to "swift-tiny '
            '(bundled)".',
        ),
    ],
)
def test_what_is_missing_is_named(server, changes, said):
    assert load(server, **changes).message == said


@pytest.mark.parametrize("slot", ["motion_high", "detail_vae", "text_encoder", "detail_lora"])
def test_no_file_outside_the_folders(server, slot):
    """What a page would never send. ComfyUI refuses it; 0.3.64 hands it on, and we refuse it."""
    outside = server.base / "models/outside.safetensors"
    write_sparse(outside, TI2V)
    error = load(server, **{slot: "../outside.safetensors"})
    expected = f"{slot}: ../outside.safetensors is not in ComfyUI's "
    if error.kind == "refused":
        expected = f"LoadSwiftModels: Value not in list ({slot}: '../outside.safetensors'"
    assert error.message.startswith(expected)
    outside.unlink()
