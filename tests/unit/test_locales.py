"""The nodes' texts on the page, in every language that is shipped."""

import json
import re
from pathlib import Path

import pytest

from tests.schemas import load_pack

LOCALES = Path(__file__).parents[2] / "locales"
LANGUAGES = sorted(folder.name for folder in LOCALES.iterdir())
# The page reads these as commands of its translation library.
SPECIAL = re.compile(r"[{}@|]")


def texts(language):
    return json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def schemas():
    """What the schemas say, in the form of a locale."""
    return {
        node: {
            "display_name": info["display_name"],
            "description": info["description"],
            "inputs": {
                name: {"name": name, "tooltip": details["tooltip"]}
                for group in ("required", "optional")
                for name, (_, details) in info["input"].get(group, {}).items()
            },
            "outputs": {
                str(place): {"name": name, "tooltip": tooltip}
                for place, (name, tooltip) in enumerate(
                    zip(info["output_name"], info["output_tooltips"], strict=True)
                )
            },
        }
        for node, info in load_pack().items()
    }


def leaves(value, path=""):
    """Give (path, text) of every text."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}")
    else:
        yield path, value


def test_three_languages_are_there():
    assert LANGUAGES == ["en", "ja", "zh"]


def test_english_is_what_the_schemas_say(schemas):
    assert texts("en") == schemas


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_translated_and_no_other(language, schemas):
    assert {path for path, _ in leaves(texts(language))} == {path for path, _ in leaves(schemas)}


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_are_ones_the_page_can_show(language):
    for path, text in leaves(texts(language)):
        assert text.strip() == text, path
        assert text, path
        assert not SPECIAL.search(text), path


@pytest.mark.parametrize("language", [name for name in LANGUAGES if name != "en"])
def test_sentences_are_translated(language, schemas):
    english = dict(leaves(schemas))
    for path, text in leaves(texts(language)):
        if path.endswith((".tooltip", ".description", ".display_name")):
            assert text != english[path], path
            assert re.search(r"[\u3040-\u30ff\u4e00-\u9fff]", text), path


@pytest.mark.parametrize("language", [name for name in LANGUAGES if name != "en"])
def test_names_and_numbers_survive_translation(language, schemas):
    """A file's name, a size or a choice is the same in every language."""
    names = re.compile(
        r"models/\w+|wan[_\d.]+vae|\d+x\d+|TI2V-5B|A14B|UMT5|\b(?:euler|unipc|fp8)\b"
    )
    english = dict(leaves(schemas))
    for path, text in leaves(texts(language)):
        for name in set(names.findall(english[path])):
            assert name in text, (path, name)
