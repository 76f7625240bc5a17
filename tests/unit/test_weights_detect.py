"""What a file is: published models by the header alone, at their true sizes."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from swift_core.errors import CheckpointError
from swift_core.model.config import WAN22_I2V_A14B, WAN22_REFERENCE_5B, WAN22_TI2V_5B
from swift_core.text.umt5 import UMT5_XXL
from swift_core.vae.config import WAN21_VAE, WAN22_VAE
from swift_core.weights.checkpoint import Kind, in_bytes
from swift_core.weights.detect import detect, expected_shapes
from swift_core.weights.families import lora_widths
from swift_core.weights.headers import read_header
from swift_core.weights.layouts import Layout, dit_to_diffusers, vae_to_diffusers
from swift_core.weights.notes import describe_metadata
from swift_core.weights.seeded import SEEDED_DETAIL, SEEDED_MOTION, SEEDED_VAE, SEEDED_WORDS
from swift_core.weights.sizes import WAN21_1_3B
from swift_core.weights.umt5_names import umt5_file_table
from tests.sparse import write_sparse

WAN_14B_T2V = replace(WAN22_I2V_A14B, in_channels=16)
PUBLISHED = (WAN22_TI2V_5B, WAN22_REFERENCE_5B, WAN22_I2V_A14B, WAN22_VAE, WAN21_VAE)
SMALL = (
    SEEDED_MOTION,
    SEEDED_DETAIL,
    SEEDED_VAE,
    replace(SEEDED_VAE, spatial_downsample=(True, False)),
    replace(SEEDED_VAE, spatial_downsample=(False, False)),
    replace(SEEDED_VAE, spatial_downsample=(False, True), temporal_downsample=(True, False)),
    SEEDED_WORDS,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "wan2.1_t2v_or_so_the_name_says.safetensors"


def look(path, shapes, **how):
    return detect(read_header(write_sparse(path, shapes, **how)))


def in_diffusers(config):
    shapes = expected_shapes(config)
    is_dit = hasattr(config, "heads")
    names = dit_to_diffusers(shapes) if is_dit else vae_to_diffusers(shapes, config)
    return {names[name]: shape for name, shape in shapes.items()}


SENTENCES = {
    WAN22_TI2V_5B: (
        "Wan2.2-TI2V-5B: a DiT with 48 input channels (30 blocks, width 3072), bf16, "
        "original Wan keys, 10.0 GB, complete."
    ),
    WAN22_REFERENCE_5B: (
        "Wan2.2-TI2V-5B with reference channels (SwiftI2V, Lucy-Edit): a DiT with 96 input "
        "channels (30 blocks, width 3072), bf16, original Wan keys, 10.0 GB, complete."
    ),
    WAN22_I2V_A14B: (
        "Wan2.2-I2V-A14B expert (high or low noise: their headers are alike): a DiT with 36 input "
        "channels (40 blocks, width 5120), bf16, original Wan keys, 28.6 GB, complete."
    ),
    WAN22_VAE: (
        "Wan2.2 VAE: a VAE with 48 latent channels (16x16x4 compression), bf16, "
        "original Wan keys, 1.4 GB, complete."
    ),
    WAN21_VAE: (
        "Wan2.1 VAE: a VAE with 16 latent channels (8x8x4 compression), bf16, "
        "original Wan keys, 253.8 MB, complete."
    ),
    WAN_14B_T2V: (
        "Wan2.1-T2V-14B or Wan2.2-T2V-A14B expert: a DiT with 16 input channels (40 blocks, width "
        "5120), bf16, original Wan keys, 28.6 GB, complete, not usable: it makes videos from text "
        "alone, and no stage here does."
    ),
    WAN21_1_3B: (
        "Wan2.1-T2V-1.3B: a DiT with 16 input channels (30 blocks, width 1536), bf16, original "
        "Wan keys, 2.8 GB, complete, not usable: it makes videos from text alone, and no stage "
        "here does."
    ),
}


@pytest.mark.parametrize("config", SENTENCES, ids=lambda config: SENTENCES[config].split(":")[0])
def test_published_models_are_known_by_their_shapes(path, config):
    checkpoint = look(path, expected_shapes(config))
    assert checkpoint.sentence == SENTENCES[config]
    assert checkpoint.config == config
    assert checkpoint.is_complete
    assert json.loads(json.dumps(checkpoint.as_data()))["sentence"] == SENTENCES[config]


def test_counts_are_those_that_were_measured(path):
    checkpoint = look(path, expected_shapes(WAN22_TI2V_5B))
    assert checkpoint.expected == 825
    assert round(checkpoint.parameters / 1e9, 4) == 4.9998
    assert checkpoint.formats == {"BF16": checkpoint.parameters}
    assert round(look(path, expected_shapes(WAN22_VAE)).parameters / 1e6, 1) == 704.7


@pytest.mark.parametrize("config", PUBLISHED)
def test_diffusers_files_are_the_same_models(path, config):
    checkpoint = look(path, in_diffusers(config))
    assert checkpoint.config == config
    assert checkpoint.is_complete
    assert "diffusers" in checkpoint.sentence
    assert checkpoint.layout in (Layout.DIFFUSERS_DIT, Layout.DIFFUSERS_VAE)


@pytest.mark.parametrize(
    "prefix", ["model.", "model.diffusion_model.", "diffusion_model.", "module.", "pipe.dit."]
)
def test_prefixes_are_seen_through(path, prefix):
    shapes = {f"{prefix}{name}": shape for name, shape in expected_shapes(SEEDED_DETAIL).items()}
    checkpoint = look(path, shapes, metadata=describe_metadata(SEEDED_DETAIL))
    assert checkpoint.prefix == prefix
    assert checkpoint.config == SEEDED_DETAIL
    assert f"original Wan keys behind {prefix}," in checkpoint.sentence
    assert checkpoint.tensors["head.modulation"] == f"{prefix}head.modulation"


LOADS_LITTLE = """
import sys
from swift_core.weights.detect import look_into

assert look_into(sys.argv[1]).is_complete
# PyTorch's compiler comes with it: a second or more, where looking takes milliseconds.
assert "sympy" not in sys.modules
"""


@pytest.mark.parametrize("config", [WAN22_TI2V_5B, WAN22_VAE, UMT5_XXL])
def test_looking_into_a_file_does_not_load_half_of_pytorch(path, config):
    write_sparse(path, expected_shapes(config))
    subprocess.run([sys.executable, "-c", LOADS_LITTLE, str(path)], check=True)


def test_endless_prefixes_are_not_followed_to_their_end(path):
    checkpoint = look(path, {f"{'model.' * 1000}a": (1,)})
    assert checkpoint.kind is Kind.UNKNOWN
    assert len(checkpoint.prefix) < 30


@pytest.mark.parametrize("config", SMALL, ids=lambda config: type(config).__name__)
def test_our_own_files_say_what_shapes_cannot(path, config):
    checkpoint = look(path, expected_shapes(config), metadata=describe_metadata(config))
    assert checkpoint.config == config
    assert checkpoint.is_complete
    assert checkpoint.name in ("custom Wan DiT", "custom Wan VAE", "word text encoder")


def test_noted_lengths_and_epsilon_are_kept(path):
    config = replace(WAN22_TI2V_5B, text_tokens=100, eps=1e-5, heads=48)
    checkpoint = look(path, expected_shapes(config), metadata=describe_metadata(config))
    assert checkpoint.config == config


def test_a_flat_small_vae_is_read_off_its_shapes(path):
    config = replace(SEEDED_VAE, residual=False, residual_blocks=3, patch=1)
    checkpoint = look(path, expected_shapes(config), metadata=describe_metadata(config))
    assert checkpoint.config == config


def test_mixed_formats_are_named(path):
    shapes = dict(expected_shapes(WAN21_VAE))
    shapes["encoder.conv1.bias"] = ("F32", shapes["encoder.conv1.bias"])
    assert ", bf16 with parts in fp32, " in look(path, shapes).sentence


def test_missing_tensors_are_counted_and_the_first_is_named(path):
    shapes = dict(expected_shapes(WAN22_TI2V_5B))
    for name in [name for name in shapes if name.startswith("blocks.29.")][:13]:
        del shapes[name]
    checkpoint = look(path, shapes)
    assert not checkpoint.is_complete
    assert checkpoint.sentence.endswith(
        "812 of 825 tensors found; first missing: blocks.29.modulation."
    )


def test_tensors_that_do_not_belong_are_named(path):
    shapes = {**expected_shapes(WAN22_TI2V_5B), "blocks.0.more\x1b.weight": (1,)}
    checkpoint = look(path, shapes)
    assert not checkpoint.is_complete
    assert checkpoint.sentence.endswith(
        r"10.0 GB, 1 that do not belong, the first: blocks.0.more\x1b.weight."
    )


def test_a_part_of_a_split_model_is_named_as_one(path):
    shapes = expected_shapes(WAN22_TI2V_5B)
    part = {name: shape for name, shape in shapes.items() if name.startswith("blocks.1")}
    checkpoint = look(path, part)
    assert checkpoint.kind is Kind.DIT
    assert checkpoint.config is None
    assert checkpoint.sentence.startswith(
        "part of a Wan DiT: 297 tensors of it, bf16, original Wan keys, "
    )
    assert checkpoint.sentence.endswith(
        "incomplete; first missing: patch_embedding.weight, not usable: it is one file of several, "
        "or damaged; put all files and their .safetensors.index.json into one folder, or get the "
        "model as one file."
    )
    encoder = {n: s for n, s in expected_shapes(WAN22_VAE).items() if n.startswith("encoder.")}
    assert look(path, encoder).missing == ("conv2.weight",)
    no_levels = {n: s for n, s in expected_shapes(WAN22_VAE).items() if "downsamples" not in n}
    assert look(path, no_levels).missing == ("encoder.downsamples.0",)


FOREIGN = {
    "img_emb.proj.0.weight": "Wan2.1-I2V-14B",
    "blocks.0.cross_attn.k_img.weight": "Wan2.1-I2V-14B",
    "vace_blocks.0.after_proj.weight": "Wan DiT with VACE control",
    "ref_conv.weight": "Wan DiT with Fun control",
    "face_adapter.fuser_blocks.0.k_norm.weight": "Wan DiT with Animate control",
    "casual_audio_encoder.weights": "Wan DiT with an audio encoder",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_kinds_of_wan_that_are_not_supported_are_named(path, name):
    checkpoint = look(path, {**expected_shapes(WAN22_I2V_A14B), name: (5120,)})
    assert checkpoint.name == FOREIGN[name]
    assert checkpoint.obstacle is not None
    assert "is not supported" in checkpoint.sentence


def test_an_image_encoder_is_named_in_diffusers_names_too(path):
    shapes = {
        **in_diffusers(WAN22_I2V_A14B),
        "condition_embedder.image_embedder.norm1.weight": (1280,),
        "blocks.0.attn2.add_k_proj.weight": (5120, 5120),
    }
    checkpoint = look(path, shapes)
    assert checkpoint.name == "Wan2.1-I2V-14B"
    assert checkpoint.obstacle == "its Wan2.1 image encoder is not supported"


def quantised(config, dtype, extra):
    return {
        name: (dtype, shape) if name.startswith("blocks.") and len(shape) == 2 else shape
        for name, shape in expected_shapes(config).items()
    } | extra


Q = "blocks.0.self_attn.q"


@pytest.mark.parametrize(
    ("dtype", "extra", "words"),
    [
        ("F8_E4M3", {}, "fp8 (e4m3) with parts in bf16, original"),
        ("F8_E5M2", {}, "fp8 (e5m2) with parts in bf16, original"),
        ("F8_E4M3", {"scaled_fp8": ("F8_E4M3", (2,))}, "fp8 (e4m3) with parts in bf16, original"),
        ("F8_E4M3", {f"{Q}.scale_weight": ("F32", ())}, ", scaled per tensor, original"),
        ("F8_E4M3", {f"{Q}.weight_scale": ("F32", (1,))}, ", scaled per tensor, original"),
        ("F8_E4M3", {f"{Q}.weight_scale": ("F32", (3072, 1))}, ", scaled per output, original"),
        ("F8_E4M3", {f"{Q}.weight_scale": ("BF16", (3072,))}, ", scaled per output, original"),
        ("BF16", {f"{Q}.scale_weight": ("F32", ())}, "bf16, scaled per tensor, original"),
    ],
)
def test_8_bit_files_are_usable(path, dtype, extra, words):
    checkpoint = look(path, quantised(WAN22_TI2V_5B, dtype, extra))
    assert checkpoint.config == WAN22_TI2V_5B
    assert checkpoint.is_complete
    assert words in checkpoint.sentence
    assert checkpoint.obstacle is None
    assert checkpoint.parameters == 4_999_787_712


def test_the_second_generation_says_its_format_in_the_metadata(path):
    layers = {Q: {"format": "float8_e4m3fn", "full_precision_matrix_mult": True}}
    shapes = quantised(WAN22_TI2V_5B, "F8_E4M3", {f"{Q}.weight_scale": ("F32", ())})
    metadata = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
    assert look(path, shapes, metadata=metadata).obstacle is None
    metadata = {
        "_quantization_metadata": json.dumps({"layers": {Q: {"format": "int8_tensorwise"}}})
    }
    assert look(path, shapes, metadata=metadata).obstacle == (
        "weights in int8_tensorwise are not read here; in ComfyUI load it with its own loader node "
        "and connect that to a MODEL input, elsewhere choose it in fp32, fp16, bf16, fp8 (e4m3), "
        "fp8 (e5m2)"
    )


@pytest.mark.parametrize(
    "text", ["", "3", "{}", '{"layers": 3}', '{"layers": {"a": 3}}', '{"layers": {"a": {}}}']
)
def test_damaged_notes_of_the_packing_are_refused(path, text):
    with pytest.raises(CheckpointError, match="damaged metadata under _quantization_metadata"):
        look(path, expected_shapes(WAN21_VAE), metadata={"_quantization_metadata": text})


@pytest.mark.parametrize(
    ("dtype", "extra", "what"),
    [
        ("I8", {f"{Q}.comfy_quant": ("U8", (9,))}, "int8"),
        ("I8", {f"{Q}.weight_scale": ("F32", (3072, 1))}, "int8"),
        ("F8_E4M3", {f"{Q}.weight_scale": ("U8", (3072, 96))}, "mxfp8 or nvfp4"),
        ("F8_E4M3", {f"{Q}.weight_scale": ("F8_E8M0", (3072, 96))}, "mxfp8"),
        (
            "F8_E4M3",
            {f"{Q}.weight_scale": ("F32", (24, 24))},
            "blocks with a scale each",
        ),
        ("U8", {f"{Q}.weight_scale_2": ("F32", ())}, "nvfp4"),
        ("F4", {}, "f4"),
    ],
)
def test_other_packings_are_named_and_sent_to_the_model_input(path, dtype, extra, what):
    checkpoint = look(path, quantised(WAN22_TI2V_5B, dtype, extra))
    assert checkpoint.config == WAN22_TI2V_5B
    assert checkpoint.obstacle is not None
    assert checkpoint.obstacle.startswith(f"weights in {what} are not read here; in ComfyUI")


def test_a_scale_beside_a_weight_of_no_size_is_refused(path):
    shapes = {**expected_shapes(WAN22_TI2V_5B), f"{Q}.weight": ()}
    checkpoint = look(path, {**shapes, f"{Q}.scale_weight": ("F32", (2,))})
    assert checkpoint.obstacle is not None
    assert "blocks with a scale each" in checkpoint.obstacle


def test_a_scale_without_its_weight_does_not_belong(path):
    shapes = {**expected_shapes(WAN22_TI2V_5B), "blocks.77.self_attn.q.scale_weight": ("F32", ())}
    checkpoint = look(path, shapes)
    assert checkpoint.unexpected == ("blocks.77.self_attn.q.scale_weight",)
    assert not checkpoint.is_complete


def test_packing_two_numbers_into_one_does_not_confuse(path):
    """Nvfp4 halves the second size of a matrix."""
    shapes = {
        name: ("U8", (shape[0], shape[1] // 2))
        if name.startswith("blocks.") and len(shape) == 2
        else shape
        for name, shape in expected_shapes(WAN22_TI2V_5B).items()
    }
    checkpoint = look(path, shapes)
    assert checkpoint.config == WAN22_TI2V_5B
    assert "packed or raw bytes with parts in bf16" in checkpoint.sentence


UMT5 = expected_shapes(UMT5_XXL)
TABLE = "token_embedding.weight"


def in_transformers(shapes, table="shared.weight"):
    ours = {name: theirs for theirs, name in umt5_file_table(layers=24).items()}
    return {ours[name] if name != TABLE else table: shape for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("shapes", "layout"),
    [
        (UMT5, Layout.WAN),
        (in_transformers(UMT5), Layout.TRANSFORMERS_UMT5),
        (in_transformers(UMT5, "encoder.embed_tokens.weight"), Layout.TRANSFORMERS_UMT5),
        (
            {**in_transformers(UMT5), "encoder.embed_tokens.weight": UMT5[TABLE]},
            Layout.TRANSFORMERS_UMT5,
        ),
        ({f"model.{n}": s for n, s in in_transformers(UMT5).items()}, Layout.TRANSFORMERS_UMT5),
    ],
)
@pytest.mark.parametrize("extra", [{}, {"spiece_model": ("U8", (1000,))}])
def test_umt5_is_recognised(path, shapes, layout, extra):
    checkpoint = look(path, {**shapes, **extra})
    assert checkpoint.kind is Kind.TEXT_UMT5
    assert checkpoint.label == "a UMT5 text encoder"
    assert checkpoint.config == UMT5_XXL
    assert checkpoint.layout is layout
    assert checkpoint.tensors.keys() == UMT5.keys()
    assert checkpoint.is_complete
    assert checkpoint.obstacle is None
    assert checkpoint.sentence.startswith(
        "UMT5 text encoder: a text encoder of 24 blocks, width 4096, 256384 tokens, bf16"
    )


def test_every_row_of_the_table_of_umt5_is_needed(path):
    """What is no row is one too many; what a row lacks is missing."""
    shapes = in_transformers(UMT5)
    for name in ("encoder.block.23.layer.1.DenseReluDense.wo.weight", "shared.weight"):
        lacking = {other: shape for other, shape in shapes.items() if other != name}
        assert look(path, lacking).missing == (umt5_file_table(layers=24)[name],)
    more = look(path, {**shapes, "decoder.final_layer_norm.weight": (4096,)})
    assert more.unexpected == ("decoder.final_layer_norm.weight",)
    assert not more.is_complete


def test_a_part_of_umt5_is_named_as_that(path):
    part = {name: shape for name, shape in UMT5.items() if not name.startswith("blocks.0.")}
    checkpoint = look(path, part)
    assert checkpoint.kind is Kind.TEXT_UMT5
    assert checkpoint.sentence.startswith("part of a UMT5 text encoder: 232 tensors of it")
    assert checkpoint.obstacle is not None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"blocks.0.pos_embedding.embedding.weight": (32, 60)}, "4096, which is not a multiple"),
        ({"blocks.0.pos_embedding.embedding.weight": (3, 64)}, "3 buckets of distances cannot"),
        ({"blocks.0.pos_embedding.embedding.weight": (33, 64)}, "33 buckets of distances cannot"),
        ({"blocks.7.attn.k.weight": (4096, 4095)}, r"blocks\.7\.attn\.k\.weight has shape"),
        ({TABLE: (1 << 21, 4096)}, "2 sizes from 1 to 1048576 were expected"),
    ],
)
def test_a_umt5_that_contradicts_itself(path, changes, said):
    with pytest.raises(CheckpointError, match=said):
        look(path, {**UMT5, **changes})


def test_t5_is_not_taken_for_umt5(path):
    """Its second and later blocks have no position biases."""
    biases = "relative_attention_bias.weight"
    shapes = {
        name: shape
        for name, shape in in_transformers(UMT5).items()
        if not name.endswith(biases) or ".block.0." in name
    }
    checkpoint = look(path, {**shapes, "shared.weight": (32128, 4096)})
    assert checkpoint.kind is Kind.TEXT_T5
    assert checkpoint.sentence.startswith("T5 text encoder: 32128 by 4096 (tokens, width), bf16")
    assert checkpoint.sentence.endswith(
        "not usable: Wan's models read UMT5, whose every block has position biases."
    )


@pytest.mark.parametrize(
    ("down", "width", "model", "names"),
    [
        ("diffusion_model.{}.self_attn.q.lora_A.weight", 3072, "Wan2.2-TI2V-5B", "Wan names"),
        ("{}.self_attn.q.lora_down.weight", 5120, "a Wan 14B model (Wan2.2 A14B", "Wan names"),
        (
            "lora_unet__blocks_0_self_attn_q.lora_down.weight",
            1536,
            "Wan2.1-T2V-1.3B",
            "Wan names with underscores",
        ),
        ("pipe.dit.{}.self_attn.q.lora_A.default.weight", 3072, "Wan2.2-TI2V-5B", "Wan names"),
        ("base_model.model.{}.self_attn.q.lora_A.weight", 3072, "Wan2.2-TI2V-5B", "Wan names"),
        ("transformer.{}.attn1.to_q.lora_A.weight", 640, "a model of width 640", "diffusers names"),
        (
            "lycoris_blocks_0_attn1_to_q.lora_down.weight",
            5120,
            "a Wan 14B model",
            "diffusers names with underscores",
        ),
    ],
)
def test_loras_are_recognised_and_for_what(path, down, width, model, names):
    shapes = {down.format("blocks.0"): (64, width)}
    checkpoint = look(path, shapes)
    assert checkpoint.kind is Kind.LORA
    assert checkpoint.sentence.startswith(f"LoRA: for {model}")
    assert f", rank 64, {names}, bf16, " in checkpoint.sentence
    assert checkpoint.obstacle is None
    checkpoint = look(path, {"transformer.blocks.0.ffn.2.lora_A.weight": (4, 99), **shapes})
    assert checkpoint.sentence.startswith(f"LoRA: for {model}")
    assert ", ranks 4 to 64, " in checkpoint.sentence


@pytest.mark.parametrize(
    ("shapes", "details"),
    [
        (
            {"head.lora_B.weight": (9, 4), "head.lora_A.weight": (4, 3072)},
            "for Wan2.2-TI2V-5B, rank 4, Wan names",
        ),
        (
            {
                "diffusion_model.blocks.0.diff_m": (1, 6, 5120),
                "diffusion_model.blocks.0.ffn.0.diff_b": (13824,),
                "diffusion_model.blocks.0.norm3.diff": (5120,),
            },
            "for a Wan 14B model (Wan2.2 A14B experts, Wan2.1-14B), differences without factors, "
            "Wan names",
        ),
        (
            {"blocks.0.diff_m": (1, 6, 48)},
            "for a model of width 48, differences without factors, Wan names",
        ),
        (
            {"blocks.0.ffn.2.lora_down.weight": (8, 99), "blocks.0.ffn.2.alpha": ()},
            "for a model of width 99, rank 8, Wan names",
        ),
        ({"head.head.diff": ()}, "for an unknown model, differences without factors, Wan names"),
    ],
)
def test_a_lora_without_self_attention_goes_by_what_it_has(path, shapes, details):
    checkpoint = look(path, shapes)
    assert checkpoint.details == details
    assert checkpoint.obstacle is None


@pytest.mark.parametrize(
    "name",
    [
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
        "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight",
        "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight",
        "diffusion_model.blocks.0.self_attn.q_proj.lora_A.weight",
    ],
)
def test_a_lora_for_another_kind_of_model_is_not_named_after_its_width(path, name):
    checkpoint = look(path, {name: (16, 3072)})
    assert checkpoint.kind is Kind.LORA
    assert checkpoint.sentence.startswith("LoRA: for another kind of model, rank 16, bf16, ")
    assert checkpoint.sentence.endswith("not usable: it was not made for a Wan model.")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("blocks.0.ffn.0.dora_scale", "a DoRA"),
        ("lycoris_blocks_0_ffn_0.hada_w1_a", "a LoHa"),
        ("lycoris_blocks_0_ffn_0.lokr_w2", "a LoKr"),
    ],
)
def test_other_adapters_are_sent_to_comfyui(path, name, label):
    checkpoint = look(path, {name: (8, 5120), "blocks.0.ffn.0.lora_A.weight": (8, 5120)})
    assert checkpoint.kind is Kind.LORA
    assert checkpoint.label == label
    assert checkpoint.sentence.endswith(
        "not usable: only plain LoRAs are applied here; load the model and this file with "
        "ComfyUI's own nodes (LoraLoaderModelOnly), and connect the MODEL."
    )


def test_an_alpha_alone_makes_no_lora(path):
    """Other models have parameters of that name."""
    assert look(path, {"blocks.0.activation.alpha": (1,)}).kind is Kind.UNKNOWN


def test_the_widths_of_a_lora(path):
    shapes = {
        "blocks.0.self_attn.q.lora_A.weight": (8, 3072),
        "blocks.0.self_attn.q.lora_B.weight": (3072, 8),
        "blocks.0.ffn.2.lora_down.weight": (8, 14336),
        "blocks.0.diff_m": (1, 6, 48),
        "blocks.0.ffn.2.alpha": (),
        "blocks.0.ffn.2.scale": (77,),
    }
    assert lora_widths(look(path, shapes).header.tensors) == {3072, 14336, 48}


def test_a_preview_vae_is_recognised(path):
    shapes = {"decoder.1.weight": (256, 48, 3, 3), "decoder.3.conv.0.weight": (256, 512, 3, 3)}
    assert look(path, shapes).sentence.startswith(
        "preview VAE (TAE): for latents of 48 channels, bf16, "
    )


def test_an_unknown_file_says_what_was_looked_for(path):
    checkpoint = look(path, {"unet.conv_in\n.weight": (3, 3)})
    assert checkpoint.kind is Kind.UNKNOWN
    assert checkpoint.sentence == (
        r"unknown file: 1 tensors, the first being unet.conv_in\n.weight; looked for a LoRA, T5, "
        "a TAE, and for blocks.N.self_attn.q.weight, blocks.N.attn1.to_q.weight, "
        "encoder.middle.0.residual.0.gamma, encoder.mid_block.resnets.0.norm1.gamma, "
        "blocks.N.pos_embedding.embedding.weight, "
        "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight, "
        "words.weight, and found none, bf16, "
        f"{path.stat().st_size} bytes."
    )
    assert checkpoint.label == "an unknown file"
    assert "there is no tensor in it" in look(path, {}).sentence


def test_several_models_in_one_file_are_named_as_that(path):
    shapes = {"model.diffusion_model.head.modulation": (1, 2, 8), "vae.conv1.weight": (8, 8)}
    assert "several models in one file" in look(path, shapes).sentence


def changed(config, changes):
    return {**expected_shapes(config), **changes}


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (
            changed(WAN22_TI2V_5B, {"blocks.3.ffn.0.weight": (14336, 3071)}),
            r"blocks\.3\.ffn\.0\.weight has shape \[14336, 3071\], but the rest of the file wants "
            r"\[14336, 3072\]; the file is damaged",
        ),
        (
            changed(WAN22_TI2V_5B, {"patch_embedding.weight": (3072, 48)}),
            r"patch_embedding.weight has shape \[3072, 48\], but 5 sizes from 1 to 131072 were",
        ),
        (
            changed(WAN22_TI2V_5B, {"head.head.weight": (193, 3072)}),
            "the width of head.head is 193, which is not a multiple of 4",
        ),
        (
            changed(WAN22_TI2V_5B, {"patch_embedding.weight": (3072, 48, 2, 2, 2)}),
            "a patch of 2 latent frames is not supported",
        ),
        (
            changed(WAN22_TI2V_5B, {"blocks.256.modulation": (1, 6, 3072)}),
            "no known model has more than 256 of a kind",
        ),
        (
            expected_shapes(SEEDED_DETAIL),
            r"a DiT of width 192 does not show its number of heads .* metadata",
        ),
        (
            expected_shapes(SEEDED_VAE),
            "a VAE with 48 latent channels and a width of 24 is none of the published ones, so "
            "the mean and standard deviation of its latent must be noted",
        ),
        (
            changed(WAN22_VAE, {"encoder.conv1.weight": (160, 13, 3, 3, 3)}),
            "the number of pixel channels is 13, which is not a multiple of 3",
        ),
        (
            changed(WAN22_VAE, {"encoder.conv1.weight": (160, 15, 3, 3, 3)}),
            "encoder.conv1 takes 15 channels, which are no square of pixels with 3 colours",
        ),
        (
            changed(WAN22_VAE, {"encoder.conv1.weight": (150, 12, 3, 3, 3)}),
            "the width of a level is 160, which is not a multiple of 150",
        ),
        (
            changed(WAN22_VAE, {"encoder.downsamples.0.downsamples.7.residual.2.weight": (1, 1)}),
            r"the VAE's encoder has \[3, 2, 2, 2\] residual blocks in its levels",
        ),
        (
            changed(WAN22_VAE, {"decoder.head.0.gamma": (100000, 1, 1, 1)}),
            "the VAE's decoder would be 400000 wide, and the most that makes sense is 131072",
        ),
        (
            changed(SEEDED_WORDS, {"words.weight": (256, 64, 1)}),
            r"words.weight has shape \[256, 64, 1\], but 2 sizes",
        ),
        (
            {"blocks.0.attn1.to_q.weight": (8, 8), "strange.weight": (8,)},
            "1 of 2 tensors do not belong to diffusers DiT keys, the first being strange.weight",
        ),
    ],
)
def test_a_file_that_contradicts_itself_is_refused_by_name(path, shapes, said):
    with pytest.raises(CheckpointError, match=said) as refusal:
        look(path, shapes)
    assert str(refusal.value).startswith(str(path))


def test_lengths_for_people():
    assert [in_bytes(n) for n in (5, 1500, 2_000_000, 28_580_000_000)] == [
        "5 bytes",
        "1.5 kB",
        "2.0 MB",
        "28.6 GB",
    ]
