"""Where files belong in ComfyUI."""

import json
from dataclasses import replace

import pytest

from swift_core.model.config import WAN22_I2V_A14B, WAN22_REFERENCE_5B, WAN22_TI2V_5B
from swift_core.text.umt5 import UMT5_XXL
from swift_core.text.words import WordConfig
from swift_core.vae.config import WAN21_VAE, WAN22_VAE
from swift_core.weights.checkpoint import Kind
from swift_core.weights.detect import detect, expected_shapes
from swift_core.weights.headers import read_header
from swift_core.weights.layouts import dit_to_diffusers
from swift_core.weights.places import place_of
from tests.sparse import write_sparse

SMALL = {"dim": 128, "heads": 1, "ffn_dim": 256, "layers": 2}
A14B = expected_shapes(replace(WAN22_I2V_A14B, **SMALL))
TI2V = expected_shapes(replace(WAN22_TI2V_5B, **SMALL))
DIFFUSERS = {dit_to_diffusers([name])[name]: shape for name, shape in TI2V.items()}
CONTROL = {"vace_patch_embedding.weight": (128, 96, 1, 2, 2)}


def lora(width):
    name = "diffusion_model.blocks.0.self_attn.q"
    return {f"{name}.lora_A.weight": (8, width), f"{name}.lora_B.weight": (width, 8)}


T5 = {
    "shared.weight": (32128, 4096),
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 64),
    "encoder.block.1.layer.0.SelfAttention.q.weight": (4096, 4096),
}
TAE = {"decoder.1.weight": (64, 48, 3, 3), "decoder.3.conv.0.weight": (64, 128, 3, 3)}
SEVERAL = {"model.diffusion_model.blocks.0.weight": (2,), "first_stage_model.weight": (2,)}
NO_INPUT = "so it belongs in no input: choose Wan2.2-I2V-A14B or Wan2.2-TI2V-5B"


@pytest.mark.parametrize(
    ("shapes", "kind", "slots", "folder", "advice"),
    [
        (A14B, Kind.DIT, ("motion_high", "motion_low"), "diffusion_models", None),
        (TI2V, Kind.DIT, ("detail", "motion_high"), "diffusion_models", None),
        (DIFFUSERS, Kind.DIT, ("detail", "motion_high"), "diffusion_models", None),
        (
            expected_shapes(replace(WAN22_REFERENCE_5B, **SMALL)),
            Kind.DIT,
            ("detail",),
            "diffusion_models",
            None,
        ),
        (
            expected_shapes(replace(WAN22_I2V_A14B, **SMALL, in_channels=16)),
            Kind.DIT,
            (),
            "diffusion_models",
            f"it makes videos from text alone, {NO_INPUT}",
        ),
        (
            expected_shapes(replace(WAN22_I2V_A14B, **SMALL, in_channels=52)),
            Kind.DIT,
            (),
            "diffusion_models",
            f"it takes what no stage gives it, {NO_INPUT}",
        ),
        (
            A14B | CONTROL,
            Kind.DIT,
            (),
            "diffusion_models",
            "what it has beside Wan's own parts (VACE control) is for ComfyUI's own nodes: choose "
            "Wan2.2-I2V-A14B or Wan2.2-TI2V-5B here",
        ),
        (
            {"blocks.1.self_attn.q.weight": (128, 128)},
            Kind.DIT,
            ("detail", "motion_high", "motion_low"),
            "diffusion_models",
            None,
        ),
        (expected_shapes(WAN21_VAE), Kind.VAE, ("motion_vae",), "vae", None),
        (expected_shapes(WAN22_VAE), Kind.VAE, ("detail_vae", "motion_vae"), "vae", None),
        (
            {"encoder.middle.0.residual.0.gamma": (640, 1, 1, 1)},
            Kind.VAE,
            ("detail_vae", "motion_vae"),
            "vae",
            None,
        ),
        (expected_shapes(UMT5_XXL), Kind.TEXT_UMT5, ("text_encoder",), "text_encoders", None),
        (
            T5,
            Kind.TEXT_T5,
            (),
            "text_encoders",
            "it is for other models, and Wan's read UMT5: choose "
            "umt5_xxl_fp8_e4m3fn_scaled.safetensors in text_encoder",
        ),
        (
            expected_shapes(WordConfig(buckets=16, text_dim=8)),
            Kind.TEXT_WORDS,
            (),
            "",
            "it is part of a set of models, which the command line's --models takes",
        ),
        (lora(5120), Kind.LORA, ("motion_high_lora", "motion_low_lora"), "loras", None),
        (lora(3072), Kind.LORA, ("detail_lora", "motion_high_lora"), "loras", None),
        (
            lora(1536),
            Kind.LORA,
            (),
            "loras",
            "it is for Wan2.1-T2V-1.3B, so it belongs in no input: choose one for "
            "Wan2.2-I2V-A14B or Wan2.2-TI2V-5B",
        ),
        (
            {
                key.replace("blocks.0.self_attn", "double_blocks.0.img_attn"): shape
                for key, shape in lora(3072).items()
            },
            Kind.LORA,
            (),
            "loras",
            "it was not made for a Wan model, so it belongs in no input",
        ),
        (
            lora(128),
            Kind.LORA,
            ("motion_high_lora", "motion_low_lora", "detail_lora"),
            "loras",
            None,
        ),
        (
            TAE,
            Kind.TAE,
            (),
            "vae_approx",
            "it belongs in no input: ComfyUI's previews take it from models/vae_approx",
        ),
        (
            SEVERAL,
            Kind.UNKNOWN,
            (),
            "checkpoints",
            "it belongs in models/checkpoints: load it with Load Checkpoint, and connect its "
            "MODEL, CLIP and VAE",
        ),
        (
            {"latent_tensor": (1, 16, 2, 4, 4), "latent_format_version_0": (0,)},
            Kind.UNKNOWN,
            (),
            "",
            "it is a saved latent: Load Latent opens it from ComfyUI's input",
        ),
        ({"model.weight": (3, 4)}, Kind.UNKNOWN, (), "", "choose another file"),
    ],
)
def test_where_a_file_belongs(tmp_path, shapes, kind, slots, folder, advice):
    found = detect(read_header(write_sparse(tmp_path / "a.safetensors", shapes)))
    place = place_of(found)
    assert found.kind is kind
    assert (place.slots, place.folder) == (slots, folder)
    expected = advice or f"it belongs in {' or '.join(slots)} (models/{folder})"
    assert place.advice == expected


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_a_place(tmp_path, kind):
    found = detect(read_header(write_sparse(tmp_path / "a.safetensors", {"a": (1,)})))
    assert place_of(replace(found, kind=kind)).advice


def test_a_vae_of_another_latent_has_no_place(tmp_path):
    config = replace(WAN21_VAE, latent_channels=12, latent_mean=(0.0,) * 12, latent_std=(1.0,) * 12)
    noted = {"kind": "vae", "latent_mean": config.latent_mean, "latent_std": config.latent_std}
    notes = {"swift_i2v": json.dumps(noted)}
    file = write_sparse(tmp_path / "a.safetensors", expected_shapes(config), metadata=notes)
    place = place_of(detect(read_header(file)))
    assert (place.slots, place.folder) == ((), "vae")
    assert place.advice == "no Wan2.2 model has such a latent"


def test_our_own_saved_latent(tmp_path):
    file = write_sparse(
        tmp_path / "a.safetensors",
        {"latent": (1, 48, 2, 4, 4)},
        dtype="F32",
        metadata={"swift_i2v_latent": "{}"},
    )
    place = place_of(detect(read_header(file)))
    assert place.advice == "it is a saved latent: the command line's decode makes its video"
