"""UMT5 on the command line: its tokenizer, what is refused and when, and a whole run."""

import importlib
import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import sentencepiece
import tokenizers
import torch
from safetensors.torch import load_file

from swift_core.cli.main import main
from swift_core.errors import CheckpointError, OutputError, PackageError
from swift_core.media.pictures import save_picture
from swift_core.media.video_read import read_video
from swift_core.model.config import WAN22_I2V_A14B, WAN22_REFERENCE_5B
from swift_core.precision import FP32
from swift_core.stages.prompt import encode_prompt
from swift_core.stages.runtime import Runtime
from swift_core.text.tokenizer import clean_prompt, read_sentencepiece, read_tokenizer_json
from swift_core.text.umt5 import UMT5_XXL, UMT5Config, UMT5Encoder
from swift_core.vae.config import WAN21_VAE, WAN22_VAE
from swift_core.weights import tokenizers as finding
from swift_core.weights.build_text import build_umt5, check_umt5
from swift_core.weights.detect import detect, expected_shapes
from swift_core.weights.headers import read_header
from swift_core.weights.model_set import open_model_set
from swift_core.weights.notes import describe_metadata
from swift_core.weights.seeded import save_model_set, seeded_model_set
from swift_core.weights.set_file import SetFile, read_set_file, write_set_file
from swift_core.weights.slots import Slot
from tests.sparse import write_sparse
from tests.umt5 import (
    PIECES,
    SMALL_UMT5,
    SPIECE,
    as_bytes,
    in_transformers,
    small_spiece,
    small_weights,
    write,
)

PROMPT = "a cat runs over the mountains"
CPU = Runtime(device=torch.device("cpu"), precision=FP32)


def their_ids(text):
    return sentencepiece.SentencePieceProcessor(model_proto=SPIECE).encode(text)


def small_json(**changes):
    """The small tokenizer as the tokenizers library writes it."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=SPIECE)
    pieces = range(processor.get_piece_size())
    vocabulary = [(processor.id_to_piece(i), processor.get_score(i)) for i in pieces]
    made = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary, unk_id=2))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always")
    made.add_special_tokens(["<pad>", "</s>", "<unk>"])
    made.enable_truncation(3)
    made.enable_padding(length=99)
    return json.dumps({**json.loads(made.to_str()), **changes}).encode()


@pytest.mark.parametrize("prompt", [PROMPT, "a cat, & the boat; turns", ""])
@pytest.mark.parametrize(
    "tokenizer",
    [
        read_sentencepiece(SPIECE, source="test"),
        read_tokenizer_json(small_json(), source="test"),
    ],
    ids=["sentencepiece", "tokenizers"],
)
def test_a_prompt_becomes_the_librarys_ids_and_an_end(tokenizer, prompt):
    ids = their_ids(prompt)
    assert tokenizer.encode(prompt, max_tokens=512) == [*ids, 1]
    assert tokenizer.encode(prompt, max_tokens=len(ids) + 1) == [*ids, 1]
    assert tokenizer.encode(prompt, max_tokens=max(1, len(ids))) == [*ids[:-1], 1]
    assert tokenizer.encode(prompt, max_tokens=1) == [1]
    assert (tokenizer.vocabulary, tokenizer.end) == (PIECES, 1)


def test_a_prompt_cannot_end_itself():
    tokenizer = read_sentencepiece(SPIECE, source="test")
    assert tokenizer.encode("a </s> cat", max_tokens=99).count(1) == 1


@pytest.mark.parametrize(
    ("prompt", "cleaned"),
    [
        ("  a\t cat\n\n runs ", "a cat runs"),
        ("salt &amp; pepper", "salt & pepper"),
        ("a &amp;lt; b", "a < b"),
        ("a\u3000cat\u00a0runs", "a cat runs"),
        ("", ""),
        ("zoom \ud800 in", "zoom ? in"),
    ],
)
def test_prompts_are_cleaned_as_in_training(prompt, cleaned, monkeypatch):
    monkeypatch.setattr("swift_core.text.tokenizer.is_there", lambda _: False)
    assert clean_prompt(prompt) == cleaned


def test_broken_letters_are_repaired_where_there_is_something_to_do_it(monkeypatch):
    def fix_text(text):
        return text.replace("cafÃ©", "café")

    monkeypatch.setattr("swift_core.text.tokenizer.is_there", lambda package: package == "ftfy")
    monkeypatch.setitem(sys.modules, "ftfy", SimpleNamespace(fix_text=fix_text))
    assert clean_prompt(" a  cafÃ© &amp; tea") == "a café & tea"


@pytest.mark.parametrize(
    ("read", "content", "said"),
    [
        (read_sentencepiece, b"", "it is empty"),
        (read_sentencepiece, b"x", "no SentencePiece model"),
        (read_sentencepiece, b"\xff" * 300, "no SentencePiece model"),
        (read_sentencepiece, SPIECE[: len(SPIECE) // 2], "no SentencePiece model"),
        (read_sentencepiece, small_spiece(eos_id=-1), "no token that ends a text"),
        (read_tokenizer_json, b"", "it is no tokenizer"),
        (read_tokenizer_json, b"{}", "it is no tokenizer"),
        (read_tokenizer_json, b"\xff\xfe", "it is no tokenizer"),
        (read_tokenizer_json, b"[" * 100_000, "it is no tokenizer"),
    ],
)
def test_a_damaged_tokenizer(read, content, said):
    with pytest.raises(CheckpointError, match=said) as refusal:
        read(content, source="some file")
    assert str(refusal.value).startswith("the tokenizer in some file cannot be read: ")
    assert str(refusal.value).endswith("take spiece.model of google/umt5-xxl.")


def test_a_tokenizer_without_an_end():
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    with pytest.raises(CheckpointError, match="it has no token </s>"):
        read_tokenizer_json(words.to_str().encode(), source="some file")


def test_a_token_number_out_of_reach_counts(tmp_path):
    """An index beyond the table would stop a GPU for good."""
    far = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"</s>": 1, "a": 10**6}, unk_token="</s>")
    )
    (tmp_path / "tokenizer.json").write_text(far.to_str())
    with pytest.raises(CheckpointError, match="has 1000001 tokens, but the text encoder"):
        check_umt5(umt5_file(tmp_path, spiece=None), None)


def umt5_file(folder, config=SMALL_UMT5, *, spiece=SPIECE, **more):
    """A whole small encoder, with its tokenizer inside or without."""
    inside = {} if spiece is None else as_bytes(spiece)
    tensors = {**in_transformers(small_weights(config)), **inside, **more}
    return detect(read_header(write(folder / "umt5.safetensors", tensors)))


def embeddings(checkpoint, folder=None):
    return build_umt5(checkpoint, folder, precision=FP32).encode(PROMPT, max_tokens=512)


def test_the_tokenizer_is_in_the_file_or_beside_it_or_where_it_is_named(tmp_path):
    (tmp_path / "inside").mkdir()
    inside = umt5_file(tmp_path / "inside")
    expected = embeddings(inside)
    beside = umt5_file(tmp_path, spiece=None)
    with pytest.raises(CheckpointError) as refusal:
        check_umt5(beside, None)
    said = str(refusal.value)
    assert said.startswith(f"{beside.path} has no tokenizer inside, and none of spiece.model, ")
    assert "google/umt5-xxl (Hugging Face)" in said
    assert "--tokenizer" in said
    assert "Comfy-Org" in said
    for place, name, content in (
        (".", "spiece.model", SPIECE),
        ("tokenizer", "spiece.model", SPIECE),
        ("google/umt5-xxl", "tokenizer.json", small_json()),
        ("umt5-xxl", "spiece.model", SPIECE),
        ("../tokenizer", "tokenizer.json", small_json()),
    ):
        path = tmp_path / place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        check_umt5(beside, None)
        assert torch.equal(embeddings(beside), expected)
        path.unlink()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "spiece.model").write_bytes(SPIECE)
    assert torch.equal(embeddings(beside, tmp_path / "elsewhere"), expected)
    with pytest.raises(CheckpointError, match=r"is named as the tokenizer .* no spiece\.model and"):
        embeddings(inside, tmp_path / "nowhere")


def test_what_is_named_counts_more_than_what_is_inside(tmp_path):
    checkpoint = umt5_file(tmp_path)
    (tmp_path / "other").mkdir()
    other = small_spiece(model_type="char")
    (tmp_path / "other" / "spiece.model").write_bytes(other)
    assert not torch.equal(embeddings(checkpoint), embeddings(checkpoint, tmp_path / "other"))


@pytest.mark.parametrize("vocabulary", [PIECES - 1, PIECES + 513])
def test_a_vocabulary_that_is_not_the_tokenizers(tmp_path, vocabulary):
    """Cut short, or of another model: the words would be others, and nobody would be told."""
    checkpoint = umt5_file(tmp_path, replace(SMALL_UMT5, vocabulary=vocabulary))
    for refused in (check_umt5, embeddings):
        with pytest.raises(CheckpointError) as refusal:
            refused(checkpoint, None)
        said = str(refusal.value)
        assert f"has {PIECES} tokens, but the text encoder {checkpoint.path} has" in said
        assert f" has {vocabulary}; use the tokenizer that belongs to it" in said


@pytest.mark.parametrize("vocabulary", [PIECES, PIECES + 512])
def test_a_vocabulary_may_be_rounded_up(tmp_path, vocabulary):
    check_umt5(umt5_file(tmp_path, replace(SMALL_UMT5, vocabulary=vocabulary)), None)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.zeros(9), "is in the number format f32, but bytes were expected"),
        (torch.zeros(0, dtype=torch.uint8), "it is empty"),
        (torch.full((500,), 255, dtype=torch.uint8), "no SentencePiece model"),
    ],
)
def test_hostile_bytes_in_the_file(tmp_path, tensor, said):
    checkpoint = umt5_file(tmp_path, spiece=None, spiece_model=tensor)
    with pytest.raises(CheckpointError, match=said) as refusal:
        check_umt5(checkpoint, None)
    assert "umt5.safetensors (spiece_model)" in str(refusal.value)


def test_a_tokenizer_larger_than_any_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(finding, "_MAX_NBYTES", 1000)
    checkpoint = umt5_file(tmp_path)
    for folder in (None, tmp_path):
        (tmp_path / "tokenizer.json").write_bytes(b"[" * 1001)
        with pytest.raises(CheckpointError, match="more than 1000 bytes, which no tokenizer of"):
            check_umt5(checkpoint, folder)


def test_a_tokenizer_that_is_gone_or_not_ours(tmp_path, monkeypatch):
    checkpoint = umt5_file(tmp_path)
    checkpoint.path.unlink()
    with pytest.raises(CheckpointError, match=r"spiece_model\) cannot be read: .* start again"):
        check_umt5(checkpoint, None)
    (tmp_path / "spiece.model").write_bytes(SPIECE)

    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "open", forbidden)
    with pytest.raises(CheckpointError, match=r"spiece\.model cannot be read: .*Permission denied"):
        check_umt5(checkpoint, tmp_path)


@pytest.mark.parametrize("package", ["transformers", "sentencepiece", "tokenizers"])
def test_a_library_that_is_not_installed(tmp_path, monkeypatch, package):
    checkpoint = umt5_file(tmp_path, spiece=None)
    name = "tokenizer.json" if package == "tokenizers" else "spiece.model"
    (tmp_path / name).write_bytes(small_json() if package == "tokenizers" else SPIECE)

    def missing(name, package_=None):
        if name == package:
            raise ImportError(f"No module named '{name}'")
        return importlib.import_module(name, package_)

    monkeypatch.setattr("swift_core.text.extras.import_module", missing)
    for refused in (check_umt5, embeddings):
        with pytest.raises(PackageError) as refusal:
            refused(checkpoint, None)
        assert f"needs the package {package}, which cannot be imported" in str(refusal.value)
        assert "pip install transformers sentencepiece" in str(refusal.value)


def test_another_kind_of_file(tmp_path):
    path = write_sparse(tmp_path / "vae.safetensors", expected_shapes(WAN22_VAE))
    with pytest.raises(CheckpointError, match=r"is a Wan2\.2 VAE, but a UMT5 text encoder is"):
        check_umt5(detect(read_header(path)), None)


def test_a_scale_that_is_none(tmp_path):
    stem = "encoder.block.0.layer.1.DenseReluDense.wi_0"
    weights = in_transformers(small_weights())
    weights[f"{stem}.weight"] = weights[f"{stem}.weight"].to(torch.float8_e4m3fn)
    scale = {f"{stem}.scale_weight": torch.tensor(float("nan"))}
    path = write(tmp_path / "umt5.safetensors", {**weights, **as_bytes(), **scale})
    with pytest.raises(CheckpointError, match=r"umt5\.safetensors: the scale of block\.0\."):
        build_umt5(detect(read_header(path)), None, precision=FP32)


def test_weights_are_mapped_and_not_copied(tmp_path):
    """The table of tokens, a third of the model, is held once, and as it lies in the file."""
    encoder = build_umt5(umt5_file(tmp_path), None, precision=FP32)
    assert isinstance(encoder, UMT5Encoder)
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert count == sum(value.numel() for value in small_weights().values())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.stack.training


def test_impossible_sizes():
    sizes = {"vocabulary": 9, "text_dim": 8, "ffn_dim": 8, "heads": 1, "head_dim": 8, "layers": 1}
    for wrong in ({"buckets": 2}, {"buckets": 7}, {"buckets": 8, "layers": 0}):
        with pytest.raises(CheckpointError, match=r"cannot exist; all sizes are above 0, and the"):
            UMT5Config(**(sizes | wrong))


def write_full_set(folder, **content):
    """Headers of published models, the text encoder with a tokenizer of the right kind."""
    configs = {
        "motion_high": WAN22_I2V_A14B,
        "motion_vae": WAN21_VAE,
        "detail": WAN22_REFERENCE_5B,
        "detail_vae": WAN22_VAE,
    }
    for name, config in configs.items():
        path = folder / f"{name}.safetensors"
        write_sparse(path, expected_shapes(config), metadata=describe_metadata(config))
    shapes = {**expected_shapes(UMT5_XXL), "spiece_model": ("U8", (4_548_313,))}
    write_sparse(folder / "umt5_xxl_fp16.safetensors", shapes, dtype="F16")
    if content:
        slots = {name: f"{name}.safetensors" for name in configs}
        slots["text"] = "umt5_xxl_fp16.safetensors"
        (folder / "set.json").write_text(json.dumps({"slots": slots, **content}))
    return folder


@pytest.mark.parametrize("content", [{}, {"name": "ours"}])
def test_published_files_make_a_set_by_their_headers(tmp_path, content):
    models = open_model_set(write_full_set(tmp_path, **content))
    assert models.text.config == UMT5_XXL
    assert models.text.source == str(tmp_path / "umt5_xxl_fp16.safetensors")


def test_a_width_that_the_models_do_not_read(tmp_path):
    write_full_set(tmp_path)
    narrow = expected_shapes(replace(UMT5_XXL, text_dim=2048))
    write_sparse(tmp_path / "umt5_xxl_fp16.safetensors", narrow)
    with pytest.raises(CheckpointError, match=r"4096 wide, but the text encoder .* them 2048 wide"):
        open_model_set(tmp_path)


@pytest.mark.parametrize("place", ["../elsewhere", "/etc", "a:b", "", 3])
def test_set_json_names_a_tokenizer_inside_the_folder(tmp_path, place):
    with pytest.raises(CheckpointError, match="tokenizer must name a folder inside the folder"):
        open_model_set(write_full_set(tmp_path, tokenizer=place))


@pytest.fixture
def folder(tmp_path):
    """A whole small set whose text encoder is UMT5."""
    models = seeded_model_set()
    folder = tmp_path / "set"
    save_model_set(models, folder)
    wide = replace(SMALL_UMT5, text_dim=models.detail.config.text_dim)
    tensors = {**in_transformers(small_weights(wide)), **as_bytes()}
    write(folder / "text.safetensors", tensors)
    return folder


def name_tokenizer(folder, **content):
    data = json.loads((folder / "set.json").read_text())
    (folder / "set.json").write_text(json.dumps({**data, **content}))


def take_out_tokenizer(folder):
    tensors = load_file(folder / "text.safetensors")
    del tensors["spiece_model"]
    write(folder / "text.safetensors", tensors)


def test_prompts_are_encoded_and_the_encoder_let_go(folder):
    text = open_model_set(folder).text
    held = []

    def load(precision):
        held.append(text.load(precision))
        return held[-1]

    slot = Slot(config=text.config, source=text.source, load=load)
    found = encode_prompt(slot, PROMPT, "", max_tokens=512, runtime=CPU)
    assert found.positive.shape == (1, len(their_ids(PROMPT)) + 1, 64)
    assert found.negative.shape == (1, 1, 64)
    assert torch.equal(found.positive, held[0].encode(PROMPT, max_tokens=512))
    assert len(held) == 1


def test_a_set_with_umt5_is_not_written_anew(folder, tmp_path):
    with pytest.raises(OutputError, match=r"text\.safetensors is UMT5, which is not written anew"):
        save_model_set(open_model_set(folder), tmp_path / "copy")


def test_a_written_set_json_keeps_the_tokenizer(tmp_path):
    slots = dict.fromkeys(("text", "motion_high", "motion_vae", "detail", "detail_vae"), "a")
    for tokenizer in (None, "google/umt5-xxl"):
        content = SetFile(name="a", description="b", slots=slots, tokenizer=tokenizer)
        write_set_file(tmp_path, content)
        assert read_set_file(tmp_path) == content


def test_a_set_remembers_its_tokenizer(folder):
    take_out_tokenizer(folder)
    (folder / "words").mkdir()
    (folder / "words" / "spiece.model").write_bytes(SPIECE)
    with pytest.raises(CheckpointError, match="has no tokenizer inside"):
        open_model_set(folder).text.check()
    name_tokenizer(folder, tokenizer="words")
    open_model_set(folder).text.check()


@pytest.fixture
def generate(tmp_path):
    picture = tmp_path / "picture.png"
    save_picture(torch.rand(50, 70, 3, generator=torch.Generator().manual_seed(0)), picture)

    def run(prompt, *words, output="out.mkv"):
        given = ["generate", "--image", picture, "--prompt", prompt, "--output", tmp_path / output]
        small = ["--size", "128x64", "--pixel-frames", "9", "--steps", "1", "--motion-steps", "1"]
        more = ["--codec", "ffv1", "--quiet", "--device", "cpu", *words]
        return main([str(word) for word in (*given, *small, *more)])

    return run


def test_a_prompt_in_umt5s_words_makes_a_video(generate, folder, tmp_path):
    """The whole path: the same words the same video, other words another."""
    models = ("--models", folder)
    assert generate(PROMPT, *models, output="a.mkv") == 0
    assert generate(f"  {PROMPT} ", *models, output="b.mkv") == 0
    assert generate("slow zoom in", *models, output="c.mkv") == 0
    a, b, c = (read_video(tmp_path / f"{name}.mkv").frames for name in "abc")
    assert len(a) == 9
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_no_tokenizer_is_said_before_anything_runs(generate, folder, tmp_path, capsys):
    take_out_tokenizer(folder)
    models = ("--models", folder)
    assert generate(PROMPT, *models) == 2
    assert "has no tokenizer inside, and none of spiece.model" in capsys.readouterr().err
    assert not (tmp_path / "out.mkv").exists()
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "spiece.model").write_bytes(SPIECE)
    assert generate(PROMPT, *models, "--tokenizer", tmp_path / "words") == 0


def test_what_reads_no_prompt_needs_no_tokenizer(generate, folder, tmp_path):
    latent, again = tmp_path / "kept.safetensors", tmp_path / "again.mkv"
    assert generate(PROMPT, "--models", folder, "--save-latent", latent) == 0
    take_out_tokenizer(folder)
    models = ["--models", str(folder)]
    assert main(["plan", *models, "--size", "128x64", "--pixel-frames", "9"]) == 0
    wanted = ["--output", str(again), "--codec", "ffv1", "--quiet"]
    assert main(["decode", str(latent), *models, *wanted]) == 0
    made, remade = (read_video(path).frames for path in (tmp_path / "out.mkv", again))
    assert torch.equal(made, remade)


def test_a_tokenizer_for_nothing(generate, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("swift_core.weights.bundled.BUNDLED_SET", tmp_path / "not bundled")
    assert generate(PROMPT, "--tokenizer", folder) == 2
    assert "is for UMT5, and the built-in set has none" in capsys.readouterr().err
    save_model_set(seeded_model_set(), folder)
    assert generate(PROMPT, "--models", folder, "--tokenizer", folder) == 2
    assert "is a word text encoder, which takes no tokenizer" in capsys.readouterr().err
