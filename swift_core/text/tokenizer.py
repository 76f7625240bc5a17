"""Text as numbers: the words' pieces that a text encoder was trained on.

The vocabulary comes with the model, as SentencePiece's own format or as a ``tokenizer.json``. Both
are read by the libraries they belong to, from bytes that somebody else has written.
"""

import html
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError
from .extras import is_there, require

_END = "</s>"


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Turns text into token numbers.

    Attributes:
        source: where it comes from, for messages.
        vocabulary: one more than the highest token number.
        end: number of the token that ends every text.
        pieces: gives the numbers of a cleaned text, without the end.
    """

    source: str
    vocabulary: int
    end: int
    pieces: Callable[[str], list[int]]

    def encode(self, prompt: str, *, max_tokens: int) -> list[int]:
        """Give a prompt's token numbers, cleaned and ended as the encoder was trained with.

        Args:
            max_tokens: at least 1; the end is one of them, whatever is dropped.
        """
        return [*self.pieces(clean_prompt(prompt))[: max_tokens - 1], self.end]


def clean_prompt(prompt: str) -> str:
    """Clean a prompt as Wan's models were trained with: broken letters, HTML, white space.

    Broken letters are repaired where ftfy is installed. Halves of letters, as a shell can pass
    them, become question marks.

    Source: Wan-Video/Wan2.2, wan/modules/tokenizers.py, ``whitespace_clean(basic_clean(text))``.
    """
    text = prompt.encode(errors="replace").decode()
    if is_there("ftfy"):
        text = require("ftfy", "repairing letters").fix_text(text)
    text = html.unescape(html.unescape(text))
    return re.sub(r"\s+", " ", text).strip()


def read_sentencepiece(model: bytes, *, source: str) -> Tokenizer:
    """Make a tokenizer of a SentencePiece model.

    Args:
        source: where the bytes are from, for messages.

    Raises:
        PackageError: if the library is not installed.
        CheckpointError: if the bytes are no such model.
    """
    library = require("sentencepiece", f"the tokenizer in {source}")
    if not model:
        raise _damaged(source, "it is empty")
    try:
        processor = library.SentencePieceProcessor(model_proto=model)
    except (RuntimeError, ValueError) as error:
        raise _damaged(source, f"it is no SentencePiece model ({error})") from error
    end: int = processor.eos_id()
    if end < 0:
        raise _damaged(source, "it has no token that ends a text")
    pieces: Callable[[str], list[int]] = processor.encode
    return Tokenizer(source=source, vocabulary=processor.get_piece_size(), end=end, pieces=pieces)


def read_tokenizer_json(text: bytes, *, source: str) -> Tokenizer:
    """Make a tokenizer of a ``tokenizer.json``.

    Args:
        source: where the bytes are from, for messages.

    Raises:
        PackageError: if the library is not installed.
        CheckpointError: if the bytes are no such tokenizer.
    """
    library = require("tokenizers", f"the tokenizer in {source}")
    try:
        made: Any = library.Tokenizer.from_buffer(text)
    except Exception as error:  # the library raises nothing narrower
        raise _damaged(source, f"it is no tokenizer ({error})") from error
    end: int | None = made.token_to_id(_END)
    if end is None:
        raise _damaged(source, f"it has no token {_END}")
    made.no_truncation()
    made.no_padding()

    def pieces(cleaned: str) -> list[int]:
        return list(made.encode(cleaned, add_special_tokens=False).ids)

    # Not their count: such a file can give a word any number.
    vocabulary = 1 + max(made.get_vocab().values())
    return Tokenizer(source=source, vocabulary=vocabulary, end=end, pieces=pieces)


def _damaged(source: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"the tokenizer in {source} cannot be read: {what}; download it again, or take "
        "spiece.model of google/umt5-xxl."
    )
