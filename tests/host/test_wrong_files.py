"""A wrong file in any slot gets one sentence, before anything large is read."""

from dataclasses import replace

import pytest

from swift_core.model.config import WAN22_I2V_A14B, WAN22_REFERENCE_5B, WAN22_TI2V_5B
from swift_core.text.umt5 import UMT5_XXL
from swift_core.text.words import WordConfig
from swift_core.vae.config import WAN21_VAE, WAN22_VAE
from swift_core.weights.detect import expected_shapes
from tests.host.graph import Graph
from tests.sparse import write_sparse

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("folders")]

SMALL = {"dim": 128, "heads": 1, "ffn_dim": 256, "layers": 2}
A14B = expected_shapes(replace(WAN22_I2V_A14B, **SMALL))
DEEPER = expected_shapes(replace(WAN22_I2V_A14B, **SMALL | {"layers": SMALL["layers"] + 1}))
TI2V = expected_shapes(replace(WAN22_TI2V_5B, **SMALL))
T2V = expected_shapes(replace(WAN22_I2V_A14B, **SMALL, in_channels=16))
REFERENCE = expected_shapes(replace(WAN22_REFERENCE_5B, **SMALL))
UMT5 = expected_shapes(UMT5_XXL)
T5 = {
    "shared.weight": (32128, 4096),
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 64),
    "encoder.block.1.layer.0.SelfAttention.q.weight": (4096, 4096),
}
TAE = {"decoder.1.weight": (64, 48, 3, 3), "decoder.3.conv.0.weight": (64, 128, 3, 3)}
SEVERAL = {"model.diffusion_model.blocks.0.weight": (2,), "first_stage_model.weight": (2,)}
LATENT = {"latent_tensor": (1, 16, 2, 4, 4), "latent_format_version_0": (0,)}
VACE = A14B | {"vace_patch_embedding.weight": (128, 96, 1, 2, 2)}
LIKE_OURS = expected_shapes(replace(WAN22_TI2V_5B, **SMALL, text_dim=64))


def lora(width):
    name = "diffusion_model.blocks.0.self_attn.q"
    return {f"{name}.lora_A.weight": (8, width), f"{name}.lora_B.weight": (width, 8)}


def packed(shapes, form, **scale):
    """Pack the blocks' matrices without a word about it."""
    made = {}
    for name, shape in shapes.items():
        is_matrix = name.startswith("blocks.") and len(shape) == 2 and name.endswith("weight")
        made[name] = (form, shape) if is_matrix else shape
        if is_matrix:
            rows = shape[0] if scale["by_row"] else 1
            made[f"{name.removesuffix('weight')}weight_scale"] = ("F32", (rows, 1))
    return made


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
        "deeper": DEEPER,
        "ti2v": TI2V,
        "t2v": T2V,
        "vace": VACE,
        "reference": REFERENCE,
        "int8": packed(TI2V, "I8", by_row=True),
        "rows": packed(TI2V, "F8_E4M3", by_row=True),
        "like_ours": LIKE_OURS,
        "wan21": expected_shapes(WAN21_VAE),
        "wan22": expected_shapes(WAN22_VAE),
        "umt5": UMT5,
        "base": expected_shapes(replace(UMT5_XXL, layers=2)),
        "t5": T5,
        "words": expected_shapes(WordConfig(buckets=16, text_dim=8)),
        "tae": TAE,
        "lora128": lora(128),
        "lora1536": lora(1536),
        "lora3072": lora(3072),
        "flux": {
            "double_blocks.0.img_attn.lora_A.weight": (8, 128),
            "double_blocks.0.img_attn.lora_B.weight": (128, 8),
        },
        "lora5120": lora(5120),
        "several": SEVERAL,
        "latent": LATENT,
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
        pickle = models / folder / "pickle.pth"
        pickle.write_bytes(b"PK\x03\x04" + bytes(100))
        gguf = models / folder / "gguf.safetensors"
        gguf.write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 100)
        cut = write_sparse(models / folder / "cut.safetensors", TI2V)
        with cut.open("r+b") as file:
            file.truncate(cut.stat().st_size - 1000)
        lacking = dict(TI2V)
        del lacking["blocks.1.ffn.2.bias"]
        written += [
            text,
            pointer,
            page,
            pickle,
            gguf,
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
    "reference": "is a custom Wan DiT (a DiT with 96 input channels, 2 blocks, width 128)",
    "vace": "is a Wan DiT with VACE control (a DiT with 36 input channels, 2 blocks, width 128)",
    "wan21": "is a Wan2.1 VAE (a VAE with 16 latent channels, 8x8x4 compression)",
    "wan22": "is a Wan2.2 VAE (a VAE with 48 latent channels, 16x16x4 compression)",
    "umt5": "is a UMT5 text encoder (a text encoder of 24 blocks, width 4096, 256384 tokens)",
    "t5": "is a T5 text encoder (32128 by 4096, tokens, width)",
    "words": "is a word text encoder (16 words, width 8)",
    "tae": "is a preview VAE (TAE) (for latents of 48 channels)",
    "lora128": "is a LoRA (for a model of width 128, rank 8, Wan names)",
    "lora1536": "is a LoRA (for Wan2.1-T2V-1.3B, rank 8, Wan names)",
    "lora3072": "is a LoRA (for Wan2.2-TI2V-5B, rank 8, Wan names)",
    "lora5120": (
        "is a LoRA (for a Wan 14B model, Wan2.2 A14B experts, Wan2.1-14B, rank 8, Wan names)"
    ),
    "flux": "is a LoRA (for another kind of model, rank 8)",
    "several": "is an unknown file (several models in one file; use the parts as files of their",
    "latent": "is an unknown file (2 tensors, the first being latent_tensor; looked for a LoRA,",
    "foreign": "is an unknown file (1 tensors, the first being model.weight; looked for a LoRA,",
}
_CHOOSE = "choose Wan2.2-I2V-A14B or Wan2.2-TI2V-5B"
GOES = {
    "a14b": "it belongs in motion_high or motion_low (models/diffusion_models)",
    "ti2v": "it belongs in detail or motion_high (models/diffusion_models)",
    "t2v": f"it makes videos from text alone, so it belongs in no input: {_CHOOSE}",
    "reference": "it belongs in detail (models/diffusion_models)",
    "vace": (
        "what it has beside Wan's own parts (VACE control) is for ComfyUI's own nodes: "
        f"{_CHOOSE} here"
    ),
    "wan21": "it belongs in motion_vae (models/vae)",
    "wan22": "it belongs in detail_vae or motion_vae (models/vae)",
    "umt5": "it belongs in text_encoder (models/text_encoders)",
    "t5": (
        "it is for other models, and Wan's read UMT5: choose "
        "umt5_xxl_fp8_e4m3fn_scaled.safetensors in text_encoder"
    ),
    "words": "it is part of a set of models, which the command line's --models takes",
    "tae": "it belongs in no input: ComfyUI's previews take it from models/vae_approx",
    "lora128": "it belongs in motion_high_lora or motion_low_lora or detail_lora (models/loras)",
    "lora1536": (
        "it is for Wan2.1-T2V-1.3B, so it belongs in no input: choose one for Wan2.2-I2V-A14B or "
        "Wan2.2-TI2V-5B"
    ),
    "lora3072": "it belongs in detail_lora or motion_high_lora (models/loras)",
    "lora5120": "it belongs in motion_high_lora or motion_low_lora (models/loras)",
    "flux": "it was not made for a Wan model, so it belongs in no input",
    "several": (
        "it belongs in models/checkpoints: load it with Load Checkpoint, and connect its MODEL, "
        "CLIP and VAE"
    ),
    "latent": "it is a saved latent: Load Latent opens it from ComfyUI's input",
    "foreign": "choose another file",
}
LORA = "a LoRA for {}.safetensors, width 128,"
WRONG = {
    "motion_high": (
        "an image-to-video DiT (36 or 48 input channels)",
        ("t2v", "vace", "reference", "wan21", "tae", "umt5", "lora5120", "several", "foreign"),
    ),
    "motion_low": ("the other expert of a14b.safetensors", ("ti2v", "wan21", "lora5120")),
    "motion_vae": ("wan_2.1_vae (16 channels)", ("a14b", "wan22", "tae", "lora128", "foreign")),
    "detail": (
        "a DiT with 48 or 96 input channels",
        ("a14b", "vace", "wan22", "umt5", "lora128", "latent"),
    ),
    "detail_vae": ("wan2.2_vae (48 channels)", ("ti2v", "wan21", "umt5", "foreign")),
    "text_encoder": (
        "UMT5 (umt5_xxl_fp8_e4m3fn_scaled.safetensors)",
        ("ti2v", "wan22", "t5", "words", "lora128", "foreign"),
    ),
    "motion_high_lora": (LORA.format("a14b"), ("a14b", "wan21", "lora1536", "lora5120", "foreign")),
    "motion_low_lora": (LORA.format("a14b"), ("umt5", "lora5120")),
    "detail_lora": (LORA.format("ti2v"), ("ti2v", "lora3072", "lora5120", "flux")),
    "motion_high_lora_2": (LORA.format("a14b"), ("umt5", "lora5120")),
}
"""What belongs into each slot, and what does not."""


@pytest.mark.parametrize(
    ("slot", "file"), [(slot, file) for slot, (_, files) in WRONG.items() for file in files]
)
def test_a_file_of_another_kind(server, slot, file):
    said = load(server, **{slot: f"{file}.safetensors"}).message
    assert said.startswith(f"{slot}: {file}.safetensors {IS[file]}")
    assert said.endswith(f", but {WRONG[slot][0]} belongs here; {GOES[file]}.")
    assert "\n" not in said


BROKEN = {
    "text": " is not a safetensors file: its first bytes announce a header of ",
    "pointer": " is a Git LFS pointer, not the file that it stands for; run `git lfs pull`",
    "page": " is a web page, not a model: the download went wrong; download it again.",
    "cut": "it looks half-downloaded; download it again.",
    "pickle": " is a PyTorch pickle, and pickles can run code: only safetensors files are read.",
    "gguf": (
        ".safetensors is a GGUF file, which this loader does not read; load it with a GGUF loader "
        "node, and connect its MODEL to {}."
    ),
    "lacking": ".safetensors lacks 1 tensors, the first is blocks.1.ffn.2.bias; download it again.",
    "int8": (
        "a custom Wan DiT (a DiT with 48 input channels, 2 blocks, width 128) with weights packed "
        "in a way that this loader does not read; load it with its own loader node, and connect "
        "its MODEL to {}."
    ),
    "like_ours": (
        "a custom Wan DiT (a DiT with 48 input channels, 2 blocks, width 128) of other proportions "
        "than Wan's, which ComfyUI does not read; use it on the command line, in its set of models."
    ),
    "umt5": (
        ".safetensors is UMT5 without its tokenizer; choose umt5_xxl_fp8_e4m3fn_scaled.safetensors,"
        " which has it inside, or put spiece.model of google/umt5-xxl beside the file."
    ),
    "base": (
        "(a text encoder of 2 blocks, width 4096, 256384 tokens), but ComfyUI runs UMT5-XXL only; "
        "choose umt5_xxl_fp8_e4m3fn_scaled.safetensors."
    ),
}
BROKEN["rows"] = BROKEN["int8"]
MODEL_GOES = {
    "motion_high": "Motion Reference 360P's motion_model",
    "motion_low": "Motion Reference 360P's motion_model_low",
    "detail": "CSG 2K Sampler's detail_model",
}


@pytest.mark.parametrize(
    ("slot", "file"),
    [(slot, file) for slot in WRONG for file in ("text", "pointer", "page", "cut")]
    + [("motion_high", "pickle"), ("detail_vae", "pickle"), ("motion_high", "gguf")]
    + [("motion_low", "gguf"), ("detail", "gguf")]
    + [("motion_high", "int8"), ("detail", "int8"), ("detail", "rows"), ("detail", "lacking")]
    + [("detail", "like_ours"), ("text_encoder", "umt5"), ("text_encoder", "base")],
)
def test_a_broken_file(server, slot, file):
    ending = ".pth" if file == "pickle" else ".safetensors"
    said = load(server, **{slot: f"{file}{ending}"}).message
    assert said.startswith(f"{slot}: ")
    assert f"{file}{ending}" in said
    assert BROKEN[file].format(MODEL_GOES.get(slot)) in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"motion_high": "none"},
            "motion_low is chosen without motion_high: one model alone belongs in motion_high.",
        ),
        (
            {"motion_low": "none", "motion_low_lora_2": "lora128.safetensors"},
            "motion_low_lora_2: lora128.safetensors is chosen, but motion_low, which it is for, is "
            "none: choose a model there, or set motion_low_lora_2 to none.",
        ),
        (
            {"motion_vae": "none"},
            "motion_vae is none: choose wan_2.1_vae (16 channels) from ComfyUI's vae folder.",
        ),
        (
            {"motion_high": "ti2v.safetensors", "motion_low": "none"},
            f"motion_vae: wan21.safetensors {IS['wan21']}, but wan2.2_vae (48 channels) belongs "
            f"here; {GOES['wan21']}.",
        ),
        (
            {"motion_low": "deeper.safetensors"},
            "motion_low: deeper.safetensors is of another architecture than a14b.safetensors: "
            "choose the two experts of one model.",
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


REFUSED = "LoadSwiftModels: Exception when validating inner node ({})"
OR = '{} there and press R, choose another file, or set models to "swift-tiny (bundled)".'


@pytest.mark.parametrize("slot", ["motion_high", "detail_vae", "text_encoder", "detail_lora"])
@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", 5])
def test_no_file_outside_the_folders(server, slot, name):
    """What a page would never send."""
    outside = server.base / "models/outside.safetensors"
    write_sparse(outside, TI2V)
    error = load(server, **{slot: name})
    outside.unlink()
    assert error.kind == "refused"
    assert error.message.startswith(
        REFUSED.format(f"{slot}: {name} is not in ComfyUI's ").removesuffix(")")
    )


def test_files_that_are_not_there_are_named_all_at_once(server):
    """As in a template whose files are still to be downloaded; before anything runs."""
    gone = {"motion_low": "gone.safetensors", "detail_lora_2": "sub/gone.safetensors"}
    error = load(server, **gone)
    assert error.kind == "refused"
    assert error.message == REFUSED.format(
        "motion_low: gone.safetensors is not in ComfyUI's diffusion_models folder, detail_lora_2: "
        f"sub/gone.safetensors is not in ComfyUI's loras folder; put {OR.format('them')}"
    )
    error = load(server, motion_low="gone.safetensors")
    assert f"diffusion_models folder; put {OR.format('it')}" in error.message


def test_the_bundled_set_wants_none_of_them(server):
    chosen = dict.fromkeys(CHOSEN, "gone.safetensors")
    graph = Graph()
    loaded = graph.add("LoadSwiftModels", **chosen | {"models": "swift-tiny (bundled)"})
    graph.keep(loaded[0], "motion")
    assert server.run(graph).error is None


def test_names_that_another_node_gives_are_looked_at_as_they_come(server):
    """ComfyUI does not know them beforehand."""
    graph = Graph()
    names = {
        name: graph.add("HostTestSay", word=word)[0]
        for name, word in (("models", "my files"), ("detail", "gone.safetensors"))
    }
    loaded = graph.add("LoadSwiftModels", **CHOSEN | names)
    graph.keep(loaded[0], "motion")
    error = server.run(graph, check=False).error
    assert error.kind == "failed"
    assert error.message.startswith("detail: gone.safetensors is not in ComfyUI's diffusion_models")


def test_there_are_two_kinds_of_models(server):
    error = load(server, models="all of them")
    assert error.message == REFUSED.format(
        'models is \'all of them\'; choose "swift-tiny (bundled)" or "my files".'
    )
