"""What people have on disk works: every layout gives ComfyUI the same model."""

import json
from dataclasses import replace
from textwrap import dedent

import pytest
import torch
from safetensors.torch import save_file

from swift_core.text.umt5 import UMT5_XXL
from swift_core.vae.config import WAN21_VAE, WAN22_VAE
from swift_core.weights.detect import expected_shapes
from swift_core.weights.layouts import dit_to_diffusers, vae_to_diffusers
from swift_core.weights.umt5_names import umt5_file_table
from tests.host.inside import run_inside
from tests.host.small_models import SMALL_TI2V, draw, lora, scaled_fp8
from tests.sparse import write_sparse

pytestmark = pytest.mark.host

CONFIG = replace(SMALL_TI2V, layers=1)
PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.", "module.", "pipe.dit.")


def behind(prefix, tensors):
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def in_diffusers(tensors):
    """Rename a DiT, and the scales of its packed layers."""
    weights = [name for name in tensors if "scale" not in name]
    names = dit_to_diffusers(weights)
    for name in tensors.keys() - weights:
        layer = names[name.replace("scale_weight", "weight")]
        names[name] = layer.removesuffix("weight") + "weight_scale"
    return {names[name]: value for name, value in tensors.items()}


def newer(tensors, *, mark):
    """Turn the older form of packing into the newer one, with or without marks."""
    made = {}
    for name, value in tensors.items():
        layer = name.removesuffix(".scale_weight")
        if name == "scaled_fp8":
            continue
        if layer == name:
            made[name] = value
            continue
        made[f"{layer}.weight_scale"] = value
        if mark:
            said = json.dumps({"format": "float8_e4m3fn"}).encode()
            made[f"{layer}.comfy_quant"] = torch.frombuffer(bytearray(said), dtype=torch.uint8)
    return made


def save_parts(folder, tensors, count=2):
    """Save a model as diffusers does where it is large; give the name of its second file."""
    folder.mkdir(parents=True)
    names, entries = list(tensors), {}
    for part in range(count):
        file = f"diffusion_pytorch_model-{part + 1:05}-of-{count:05}.safetensors"
        mine = names[part::count]
        save_file({name: tensors[name] for name in mine}, folder / file)
        entries |= dict.fromkeys(mine, file)
    index = {"metadata": {}, "weight_map": entries}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    return f"{folder.name}/{file}"


def make_folders(base):
    for folder in ("diffusion_models", "vae", "loras", "text_encoders"):
        (base / "models" / folder).mkdir(parents=True)
    return base


@pytest.fixture
def base(tmp_path):
    """ComfyUI's folders."""
    return make_folders(tmp_path)


LOAD = """
files, loading, loras = (getattr(pack.nodes.host, name) for name in ("files", "loading", "loras"))

core_errors = pack.swift_core.errors

def look(name, slot="detail"):
    found = files.inspect_file(slot, "diffusion_models", name)
    files.check_dit(slot, found, (48,), "a DiT")
    return found

def run(model):
    comfy.model_management.load_models_gpu([model])
    draws = torch.Generator().manual_seed(1)
    x, text = (torch.randn(s, generator=draws) for s in ((1, 48, 2, 4, 4), (1, 6, 4096)))
    with torch.inference_mode():
        return model.model.apply_model(x, torch.tensor([0.7]), c_crossattn=text)

def apart(one, other):
    return float((one - other).norm() / other.norm())
"""


def run_lines(host, base, code, **values):
    return run_inside(host, base, LOAD + dedent(code), **values)


@pytest.fixture(scope="module")
def plain(host, tmp_path_factory):
    """How far each layout's model is from that of the original layout."""
    base = make_folders(tmp_path_factory.mktemp("comfyui"))
    folder = base / "models/diffusion_models"
    tensors = draw(CONFIG, seed=5)
    save_file(tensors, folder / "wan.safetensors")
    names = ["diffusers.safetensors"]
    save_file(in_diffusers(tensors), folder / names[0])
    for prefix in PREFIXES:
        names.append(f"{prefix}safetensors")
        save_file(behind(prefix, tensors), folder / names[-1])
    names.append(save_parts(folder / "parts", in_diffusers(tensors)))
    names.append(save_parts(folder / "wan_parts", tensors, count=3))
    code = """
    wan = run(loading.load_model(look("wan.safetensors"), "default"))
    assert wan.isfinite().all() and wan.std() > 0.1
    result = {name: apart(run(loading.load_model(look(name), "default")), wan) for name in names}
    listed = files.list_files("diffusion_models")
    assert set(names) < set(listed), listed
    # What ComfyUI does where it cannot share a model.
    again, options = loading.load_model(look(names[0]), "default").cached_patcher_init
    result["again"] = apart(run(again(*options)), wan)
    fp8 = run(loading.load_model(look("diffusers.safetensors"), "fp8_e4m3fn"))
    result["fp8"] = apart(fp8, run(loading.load_model(look("wan.safetensors"), "fp8_e4m3fn")))
    """
    return run_lines(host, base, code, names=names)


@pytest.mark.parametrize(
    "name",
    [
        "diffusers.safetensors",
        *(f"{prefix}safetensors" for prefix in PREFIXES),
        "parts/diffusion_pytorch_model-00002-of-00002.safetensors",
        "wan_parts/diffusion_pytorch_model-00003-of-00003.safetensors",
        "again",
        "fp8",
    ],
)
def test_every_layout_is_the_same_model(plain, name):
    assert plain[name] == 0


def test_packed_weights(host, base):
    """Marked in either form, or not at all: what ComfyUI computes is what the scales say."""
    folder = base / "models/diffusion_models"
    exact = draw(CONFIG, seed=5)
    old = scaled_fp8(exact)
    unpacked = {
        name: (value.float() * old[scale]).half()
        if (scale := f"{name.removesuffix('weight')}scale_weight") in old
        else value
        for name, value in old.items()
        if name in exact
    }
    save_file(unpacked, folder / "unpacked.safetensors")
    forms = {
        "old": old,
        "unmarked": newer(old, mark=False),
        "marked": newer(old, mark=True),
        "diffusers": in_diffusers({k: v for k, v in old.items() if k != "scaled_fp8"}),
        "behind": behind("diffusion_model.", newer(old, mark=False)),
    }
    for name, tensors in forms.items():
        save_file(tensors, folder / f"{name}.safetensors")
    save_file({k: v for k, v in old.items() if "scale" not in k}, folder / "raw.safetensors")
    code = """
    exact = run(loading.load_model(look("unpacked.safetensors"), "default"))
    made = {
        name: run(loading.load_model(look(f"{name}.safetensors"), "default")) for name in names
    }
    result = {
        "exact": apart(made["old"], exact),
        "raw": apart(made.pop("raw"), exact),
        **{name: apart(value, made["old"]) for name, value in made.items()},
    }
    """
    apart = run_lines(host, base, code, names=[*forms, "raw"])
    # 0.3.64 rounds to 8 bits on its way. Without the scales it is all noise.
    assert apart.pop("exact") < 0.05
    assert apart.pop("raw") > 0.5
    assert apart == dict.fromkeys(forms, 0)


def test_everything_in_diffusers_names(host, base):
    """Through the node: a DiT in parts with two LoRAs, and a VAE of which no name is left over."""
    models = base / "models"
    tensors = draw(CONFIG, seed=5)
    chosen = {"detail": save_parts(models / "diffusion_models/parts", in_diffusers(tensors))}
    large = expected_shapes(WAN22_VAE)
    names = vae_to_diffusers(large, WAN22_VAE)
    shapes = {names[name]: shape for name, shape in large.items()}
    write_sparse(models / "vae/large.safetensors", shapes)
    chosen["detail_vae"] = "large.safetensors"
    for index, name in enumerate(("detail_lora", "detail_lora_2")):
        save_file(lora(CONFIG, seed=index), models / "loras" / f"{index}.safetensors")
        chosen[name] = f"{index}.safetensors"
    code = """
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.DEBUG)
    motion, detail, vae, clip = NODES["LoadSwiftModels"].execute(
        models="my files", detail_lora_strength=0.5, **chosen
    ).result
    assert motion is None and clip is None
    assert not [line for line in said if "keys" in line.lower()], said
    assert not any(value.any() for value in vae.first_stage_model.state_dict().values())
    result = {name: [patch[0] for patch in patches] for name, patches in detail.patches.items()}
    """
    strengths = run_lines(host, base, code, chosen=chosen)
    assert len(strengths) == 8
    assert all(sorted(each) == [0.5, 1.0] for each in strengths.values())


def test_a_vae_in_diffusers_names(host, base):
    folder = base / "models/vae"
    tensors = draw(WAN21_VAE, seed=7)
    names = vae_to_diffusers(tensors, WAN21_VAE)
    save_file({names[name]: value for name, value in tensors.items()}, folder / "a.safetensors")
    save_file(behind("module.", tensors), folder / "b.safetensors")
    code = """
    from safetensors.torch import load_file
    exact = {name.removeprefix("module."): value for name, value in
             load_file(f"{folder}/b.safetensors").items()}
    for name in ("a", "b"):
        found = files.inspect_file("motion_vae", "vae", f"{name}.safetensors")
        files.check_vae("motion_vae", found, 16, "a VAE")
        vae = loading.load_vae(found)
        weights = vae.first_stage_model.state_dict()
        assert exact.keys() == weights.keys()
        assert all(torch.equal(exact[name].to(value.dtype), value)
                   for name, value in weights.items())
    again, given = vae.patcher.cached_patcher_init
    assert again(*given).model is not vae.first_stage_model
    """
    run_lines(host, base, code, folder=str(folder))


SENTENCES = ["a cat walks", "the sea at night", "slow zoom in", "a dog and a cat", "hello world"]


def test_umt5_in_wans_names(host, base):
    """What is handed to ComfyUI is what its own UMT5-XXL and its tokenizer take."""
    folder = base / "models/text_encoders"
    shapes = expected_shapes(UMT5_XXL)
    theirs = {ours: name for name, ours in reversed(umt5_file_table(UMT5_XXL.layers).items())}
    scaled = {
        name: ("F8_E4M3", shape) if len(shape) == 2 and "attn." in name else shape
        for name, shape in shapes.items()
    }
    scales = {
        f"{name.removesuffix('weight')}weight_scale": ("F32", (1,))
        for name, shape in scaled.items()
        if shape[0] == "F8_E4M3"
    }
    write_sparse(folder / "wan_scaled.safetensors", scaled | scales)
    write_sparse(folder / "bare.safetensors", {theirs[name]: shapes[name] for name in shapes})
    code = """
    import io, pathlib, sentencepiece
    import comfy.ops, comfy.text_encoders.t5, comfy.text_encoders.wan

    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences * 20), model_writer=made, vocab_size=28, eos_id=1,
        pad_id=0, unk_id=2, bos_id=-1, minloglevel=2,
    )
    beside = pathlib.Path(folder, "google/umt5-xxl")
    beside.mkdir(parents=True)
    model = beside / "spiece.model"

    found = files.inspect_file("text_encoder", "text_encoders", "bare.safetensors")
    refused = {
        b"no model": f"the tokenizer in {model} cannot be read: it is no SentencePiece model",
        made.getvalue(): f"the tokenizer in {model} has 28 tokens, but the text encoder "
        "bare.safetensors has 256384; use the tokenizer that belongs to it",
    }
    for content, sentence in refused.items():
        model.write_bytes(content)
        try:
            files.check_text_encoder("text_encoder", found)
        except core_errors.CheckpointError as error:
            assert str(error).startswith(f"text_encoder: {sentence}"), error
        else:
            raise AssertionError("it was taken")

    # As large as UMT5's: further pieces are further fields of the message.
    pieces = (f"piece {n}".encode() for n in range(256300 - 28))
    fields = (bytes((10, len(p))) + p + bytes((21, 0, 0, 0, 0)) for p in pieces)
    whole = made.getvalue() + b"".join(bytes((10, len(f))) + f for f in fields)
    model.write_bytes(whole)

    config = pathlib.Path(comfy.text_encoders.__path__[0], "umt5_config_xxl.json")
    config = json.loads(config.read_text())
    t5 = comfy.text_encoders.t5.T5(config, torch.float16, "meta", comfy.ops.manual_cast)
    wanted = {name: tuple(value.shape) for name, value in t5.state_dict().items()}
    wanted.pop("encoder.embed_tokens.weight", None)

    handed = []
    class Clip:
        class patcher: pass
    def take(states, embedding_directory, clip_type):
        assert clip_type is comfy.sd.CLIPType.WAN
        assert comfy.sd.detect_te_model(states[0]) is comfy.sd.TEModel.T5_XXL
        handed.append(states[0])
        return Clip
    comfy.sd.load_text_encoder_state_dicts = take

    result = {}
    for name in ("wan_scaled", "bare"):
        found = files.inspect_file("text_encoder", "text_encoders", f"{name}.safetensors")
        files.check_text_encoder("text_encoder", found)
        loading.load_text_encoder(found)
        state = handed.pop()
        spiece = state.pop("spiece_model")
        tokenizer = comfy.text_encoders.wan.WanT5Tokenizer(tokenizer_data={"spiece_model": spiece})
        ids = [token for token, _ in tokenizer.tokenize_with_weights("a cat")["umt5xxl"][0]]
        processor = sentencepiece.SentencePieceProcessor(model_proto=whole)
        expected = [*processor.encode("a cat"), 1]
        assert ids[: len(expected)] == expected, (ids[:9], expected)
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        assert wanted.items() <= shapes.items(), wanted.items() - shapes.items()
        result[name] = sorted(shapes.keys() - wanted.keys())
    """
    beyond = run_lines(host, base, code, sentences=SENTENCES, folder=str(folder))
    assert beyond["bare"] == []
    layers = {
        name.removesuffix(".comfy_quant").removesuffix(".weight_scale")
        for name in beyond["wan_scaled"]
    }
    parts = {name.rpartition(".")[2] for name in beyond["wan_scaled"]}
    # What convert_old_quants makes of the older form, where ComfyUI has it.
    assert parts in ({"weight_scale", "comfy_quant"}, {"scale_weight", "scaled_fp8"})
    assert sum("SelfAttention.q" in name for name in layers) == UMT5_XXL.layers


def spell(kind, tensors):
    """Write a LoRA's keys as others do."""
    made = {}
    for name, value in tensors.items():
        layer, _, part = name.removeprefix("diffusion_model.").partition(".lora_")
        layer, alpha, _ = layer.partition(".alpha")
        if kind == "kohya":
            layer, front = layer.replace(".", "_"), "lora_unet__"
        elif kind == "diffusers":
            layer, front = dit_to_diffusers([f"{layer}.weight"])[f"{layer}.weight"], "transformer."
            layer = layer.removesuffix(".weight")
            part = {"down.weight": "A.weight", "up.weight": "B.weight"}.get(part)
        else:
            front = kind
        made[f"{front}{layer}{alpha}" if alpha else f"{front}{layer}.lora_{part}"] = value
    return made


SPELLINGS = ("kohya", "diffusers", "", "pipe.dit.", "base_model.model.", "transformer.")


def test_loras_in_every_spelling(host, base):
    folder, loras = base / "models/diffusion_models", base / "models/loras"
    tensors = draw(CONFIG, seed=5)
    save_file(tensors, folder / "for_loras.safetensors")
    first, second = lora(CONFIG, seed=1), lora(CONFIG, seed=2)
    for name, value in first.items():
        if name.endswith("alpha"):
            value.fill_(2.0)
    save_file(first, loras / "first.safetensors")
    save_file(second, loras / "second.safetensors")
    for index, kind in enumerate(SPELLINGS):
        save_file(spell(kind, first), loras / f"{index}.safetensors")
    name = "blocks.0.self_attn.q"
    stranger = {
        f"diffusion_model.img_emb.proj.{n}.lora_down.weight": torch.ones(4, 256) for n in range(5)
    }
    stranger |= {key.replace("down", "up"): torch.ones(256, 4) for key in stranger}
    save_file(first | stranger, loras / "stranger.safetensors")
    differences = {
        f"{name}.diff": torch.full((256, 256), 0.5),
        f"{name}.diff_b": torch.full((256,), 0.25),
        "blocks.0.diff_m": torch.full((1, 6, 256), 0.125),
        "blocks.0.self_attn.norm_q.diff": torch.full((256,), 0.5),
    }
    save_file(behind("diffusion_model.", differences), loras / "differences.safetensors")
    shapes = {"w1_a": (256, 2), "w1_b": (2, 256), "w2_a": (256, 2), "w2_b": (2, 256)}
    loha = {f"{name}.hada_{part}": torch.full(shape, 0.5) for part, shape in shapes.items()}
    save_file(
        behind("diffusion_model.", loha) | {"elsewhere.alpha": torch.ones(())},
        loras / "loha.safetensors",
    )
    save_file(behind("elsewhere.", loha), loras / "nowhere.safetensors")
    later = {key.replace("blocks.0.", "blocks.9."): value for key, value in first.items()}
    save_file(later, loras / "unknown.safetensors")
    code = """
    import comfy.lora
    dit = look("for_loras.safetensors")
    exact = {f"diffusion_model.{n}": v for n, v in
             comfy.utils.load_torch_file(str(dit.path)).items()}

    def put(*chosen):
        model = loading.load_model(dit, "default")
        for slot, (name, strength) in enumerate(chosen):
            found = files.inspect_file("detail_lora", "loras", f"{name}.safetensors")
            model = loras.add_lora(model, files.check_lora("detail_lora", found, strength, dit))
        return {
            name: comfy.lora.calculate_weight(patches, exact[name].double(), name)
            for name, patches in model.patches.items()
        }

    def merged(*chosen):
        weights = {}
        for name, strength in chosen:
            file = comfy.utils.load_torch_file(f"{folder}/{name}.safetensors")
            for key in [key for key in file if key.endswith("lora_up.weight")]:
                layer = key.removesuffix(".lora_up.weight")
                up, down = (file[f"{layer}.lora_{part}.weight"].double() for part in ("up", "down"))
                scale = strength * float(file[f"{layer}.alpha"]) / len(down)
                before = weights.get(f"{layer}.weight", exact[f"{layer}.weight"].double())
                weights[f"{layer}.weight"] = before + scale * up @ down
        return weights

    def worst(one, other):
        assert one.keys() == other.keys(), one.keys() ^ other.keys()
        return max(apart(one[name], other[name]) for name in other)

    by_hand = merged(("first", 0.8))
    result = {"first": worst(put(("first", 0.8)), by_hand)}
    for index in range(spellings):
        result[index] = worst(put((str(index), 0.8)), by_hand)
    both = (("first", 0.8), ("second", -0.5))
    result["both"] = worst(put(*both), merged(*both))

    said = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    result["stranger"] = worst(put(("stranger", 0.8)), by_hand)
    (line,) = said
    assert line.startswith("detail_lora: ") and (
        "stranger.safetensors: 10 of 34 keys match nothing in this model and are left out: "
        "diffusion_model.img_emb.proj.0.lora_down.weight, "
        "diffusion_model.img_emb.proj.0.lora_up.weight, "
        "diffusion_model.img_emb.proj.1.lora_down.weight, ..." in line
    ), line

    block = "diffusion_model.blocks.0."
    changed = put(("differences", 2.0))
    for name, by in (("self_attn.q.weight", 1.0), ("self_attn.q.bias", 0.5), ("modulation", 0.25),
                     ("self_attn.norm_q.weight", 1.0)):
        got = changed.pop(block + name)
        assert torch.allclose(got, exact[block + name].double() + by), name
    assert not changed

    # Another adapter than a plain LoRA: ComfyUI's to read, and to say what it left out.
    said.clear()
    (got,) = put(("loha", 1.0)).values()
    assert torch.allclose(got, exact[block + "self_attn.q.weight"].double() + 0.25)
    assert len(said) == 1 and said[0].endswith(
        "loha.safetensors: 1 of 5 keys match nothing in this model and are left out: "
        "elsewhere.alpha."
    ), said
    refused = {
        "nowhere": "detail_lora: no key of nowhere.safetensors fits this model; choose the LoRA "
        "that was made for it.",
        "unknown": "Choose the LoRA that was made for this model.",
    }
    for name, sentence in refused.items():
        try:
            put((name, 1.0))
        except core_errors.CheckpointError as error:
            assert str(error).startswith("detail_lora: ") and sentence in str(error), error
        else:
            raise AssertionError(f"{name} was taken")
    """
    apart = run_lines(host, base, code, folder=str(loras), spellings=len(SPELLINGS))
    # The factors are fp16 and multiplied in fp32.
    assert all(value < 1e-5 for value in apart.values()), apart
