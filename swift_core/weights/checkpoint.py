"""What a file turned out to be, as a value and as a sentence."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from .headers import Header, TensorEntry, shown
from .layouts import Layout
from .notes import Config
from .packing import is_packing

PACKED = ("F8_E4M3", "F8_E5M2")
LOADABLE = ("F32", "F16", "BF16", *PACKED)
"""Number formats that models are built from."""

FORMAT_NAMES = {
    "F32": "fp32",
    "F16": "fp16",
    "BF16": "bf16",
    "F8_E4M3": "fp8 (e4m3)",
    "F8_E5M2": "fp8 (e5m2)",
    "I8": "int8",
    "U8": "packed or raw bytes",
    "F64": "fp64",
}


class Kind(Enum):
    """What a file can be; the value is for people."""

    DIT = "DiT"
    VAE = "VAE"
    TEXT_WORDS = "word text encoder"
    TEXT_UMT5 = "UMT5 text encoder"
    TEXT_T5 = "T5 text encoder"
    LORA = "LoRA"
    TAE = "preview VAE (TAE)"
    UNKNOWN = "unknown file"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a file turned out to be.

    Attributes:
        header: what the file says about itself.
        kind: what it is.
        name: what people call it.
        details: its sizes in words, or what was tried where it is unknown.
        layout: how its tensors are named; None where we cannot load the kind at all.
        prefix: what stands in front of every name.
        config: its architecture; None if it is not to be had.
        tensors: by original Wan name where there is a layout: the names in the file.
        packed: likewise what says how weights are packed: by Wan's name of the layer and what is
            said, ``blocks.0.ffn.0.scale_weight``.
        expected: how many tensors a whole one has; 0 where unknown.
        missing: tensors that it lacks, by original Wan name.
        unexpected: tensors that do not belong, by original Wan name.
        quantisation: how numbers are packed beyond their format; empty if they are not.
        obstacle: why it cannot be used, as the end of a sentence; None if it can be.
    """

    header: Header
    kind: Kind
    name: str
    details: str
    layout: Layout | None = None
    prefix: str = ""
    config: Config | None = None
    tensors: Mapping[str, str] = field(default_factory=dict[str, str])
    packed: Mapping[str, str] = field(default_factory=dict[str, str])
    expected: int = 0
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    quantisation: str = ""
    obstacle: str | None = None

    @property
    def path(self) -> Path:
        """Give the file."""
        return self.header.path

    @property
    def nbytes(self) -> int:
        """Give the file's length."""
        return self.header.nbytes

    @property
    def parameters(self) -> int:
        """Count the numbers in the file, without those that only say how others are packed."""
        return sum(entry.parameters for entry in self._weights)

    @property
    def formats(self) -> Mapping[str, int]:
        """Count the numbers of each format, most frequent first."""
        return dict(count_formats(self._weights).most_common())

    @property
    def stays_packed(self) -> bool:
        """Tell whether most of its numbers are in 8 bits, and so stay packed as they are loaded."""
        return next(iter(self.formats), "") in PACKED

    @property
    def _weights(self) -> list[TensorEntry]:
        return [entry for name, entry in self.header.tensors.items() if not is_packing(name)]

    @property
    def is_complete(self) -> bool:
        """Tell whether every tensor is there and none too many; unknown kinds are not."""
        return self.layout is not None and not self.missing and not self.unexpected

    @property
    def label(self) -> str:
        """Name it within a sentence."""
        return f"{_article(self.name)} {self.name}"

    @property
    def sentence(self) -> str:
        """Say what the file is."""
        parts = [f"{self.name}: {self.details}", self._formats_in_words()]
        if self.layout is not None:
            prefixed = f" behind {self.prefix}" if self.prefix else ""
            parts.append(f"{self.layout.value}{prefixed}")
        files = f" in {self.header.files} files" if self.header.files > 1 else ""
        parts.append(f"{in_bytes(self.nbytes)}{files}")
        if self.layout is not None:
            parts.append("complete" if self.is_complete else self._gaps())
        if self.obstacle is not None:
            parts.append(f"not usable: {self.obstacle}")
        return f"{', '.join(part for part in parts if part)}."

    def as_data(self) -> dict[str, Any]:
        """Give it as plain data, for JSON."""
        return {
            "kind": self.kind.name.lower(),
            "name": self.name,
            "sentence": self.sentence,
            "layout": None if self.layout is None else self.layout.value,
            "prefix": self.prefix,
            "config": None if self.config is None else asdict(self.config),
            "formats": dict(self.formats),
            "quantisation": self.quantisation,
            "parameters": self.parameters,
            "nbytes": self.nbytes,
            "complete": self.is_complete,
            "expected": self.expected,
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
            "obstacle": self.obstacle,
        }

    def _formats_in_words(self) -> str:
        formats = [FORMAT_NAMES.get(name, name.lower()) for name in self.formats]
        if not formats:
            return ""
        rest = f" with parts in {' and '.join(formats[1:])}" if formats[1:] else ""
        scaled = f", {self.quantisation}" if self.quantisation else ""
        return f"{formats[0]}{rest}{scaled}"

    def _gaps(self) -> str:
        """Say what is missing and what is too many."""
        gaps: list[str] = []
        if self.missing:
            found = f"{self.expected - len(self.missing)} of {self.expected} tensors found"
            count = found if self.expected else "incomplete"
            gaps.append(f"{count}; first missing: {self.missing[0]}")
        if self.unexpected:
            count = len(self.unexpected)
            gaps.append(f"{count} that do not belong, the first: {shown(self.unexpected[0])}")
        return "; ".join(gaps)


def count_formats(tensors: Iterable[TensorEntry]) -> Counter[str]:
    """Count the numbers of each format."""
    count: Counter[str] = Counter()
    for entry in tensors:
        count[entry.dtype] += entry.parameters
    return count


def in_bytes(nbytes: int) -> str:
    """Write a file's length for people, in decimal units."""
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes} bytes"


def _article(name: str) -> str:
    """Give the article of a name as it is spoken; UMT5 begins like "you"."""
    return "an" if name[:1] in ("A", "E", "I", "O", "u") else "a"
