"""Notes in a file's metadata are as untrusted as the rest of it."""

import json

import pytest

from swift_core.errors import CheckpointError
from swift_core.weights.detect import detect, expected_shapes
from swift_core.weights.headers import read_header
from swift_core.weights.notes import describe_metadata, read_notes
from swift_core.weights.seeded import SEEDED_DETAIL, SEEDED_VAE, SEEDED_WORDS
from tests.sparse import write_sparse


def noted(path, text, shapes=None):
    return read_header(write_sparse(path, shapes or {}, metadata={"swift_i2v": text}))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "noted.safetensors"


def test_what_is_written_is_read(path):
    header = read_header(write_sparse(path, {}, metadata=describe_metadata(SEEDED_DETAIL)))
    notes = read_notes(header)
    assert (notes.kind, notes.heads, notes.text_tokens, notes.eps) == ("dit", 6, 512, 1e-6)
    header = read_header(write_sparse(path, {}, metadata=describe_metadata(SEEDED_VAE)))
    notes = read_notes(header)
    assert (notes.kind, notes.latent_mean, notes.latent_std) == ("vae", (0.0,) * 48, (1.0,) * 48)
    assert json.loads(describe_metadata(SEEDED_WORDS)["swift_i2v"]) == {"kind": "words"}


def test_other_files_note_nothing(path):
    notes = read_notes(read_header(write_sparse(path, {}, metadata={"format": "pt"})))
    assert notes.kind is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[]", "it is no JSON object"),
        ("{}", "kind is None, not dit, vae, words or umt5"),
        ('{"kind": ["dit"]}', "kind is a list or an object, not dit"),
        (r'{"kind": "\u001b[31m"}', r"kind is '\\x1b\[31m', not dit"),
        ('{"kind": "dit", "heads": 0}', "heads is 0, not a whole number from 1 to 1024"),
        ('{"kind": "dit", "heads": 2.0}', "heads is 2.0, not"),
        ('{"kind": "dit", "heads": true}', "heads is True, not"),
        ('{"kind": "dit", "heads": "8"}', "heads is '8', not"),
        ('{"kind": "dit", "text_tokens": 1e9}', "text_tokens is 1000000000.0, not a whole number"),
        ('{"kind": "dit", "eps": NaN}', "eps is nan, not a number between 0 and 0.1"),
        ('{"kind": "dit", "eps": 1}', "eps is 1, not a number"),
        ('{"kind": "vae", "latent_std": [1, 0]}', "latent_std holds 0; .* finite numbers above 0"),
        (
            '{"kind": "vae", "latent_std": 7}',
            "latent_std is 7; it must be a list of finite numbers above 0",
        ),
        ('{"kind": "vae", "latent_mean": "x"}', "latent_mean is 'x'; it must be a list"),
        ('{"kind": "vae", "latent_mean": [NaN]}', "latent_mean holds nan; .* of finite numbers;"),
        ('{"kind": "vae", "latent_mean": [[1]]}', "latent_mean holds a list or an object"),
        ('{"kind": "vae", "latent_mean": [Infinity]}', "latent_mean holds inf"),
        (f'{{"kind": "vae", "latent_mean": [1{"0" * 1000}]}}', r"latent_mean holds 1000.*\.\.\."),
    ],
)
def test_hostile_notes_are_refused(path, text, said):
    header = noted(path, text)
    with pytest.raises(CheckpointError, match=f"wrong notes under swift_i2v .*: {said}"):
        read_notes(header)


def test_notes_must_be_of_the_kind_that_the_keys_are(path):
    header = noted(path, '{"kind": "vae"}', expected_shapes(SEEDED_DETAIL))
    with pytest.raises(CheckpointError, match="it is of the kind vae, but its keys are those of a"):
        detect(header)


def test_notes_must_fit_the_shapes(path):
    shapes = expected_shapes(SEEDED_DETAIL)
    with pytest.raises(CheckpointError, match="a DiT of width 192 cannot have 5 heads"):
        detect(noted(path, '{"kind": "dit", "heads": 5}', shapes))
    notes = '{"kind": "vae", "latent_mean": [1], "latent_std": [1]}'
    with pytest.raises(CheckpointError, match="latent_mean has 1 numbers for 48 channels"):
        detect(noted(path, notes, expected_shapes(SEEDED_VAE)))
