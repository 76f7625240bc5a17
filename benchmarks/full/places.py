"""Which rows count, and which may be held against each other: those of one device and one size."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .whole import WHOLE_RUN

Data = dict[str, Any]
"""A row, or a file of rows, as read from JSON."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """All that was measured at one size on one kind of device.

    Attributes:
        name: what tells it from the others, in brackets; empty if there are no others.
        parts: the files.
    """

    name: str
    parts: Sequence[Data]

    @property
    def rows(self) -> list[Data]:
        """Give the rows of whole runs and of their phases."""
        return [row for part in self.parts if part["part"] == "end-to-end" for row in part["rows"]]

    @property
    def runs(self) -> list[Data]:
        """Give the whole runs that came to their end."""
        return [row for row in self.rows if row["name"] == WHOLE_RUN and not row["error"]]


def places(parts: Sequence[Data]) -> list[Place]:
    """Sort files by the place that they are from, with the latest rows only."""
    found: dict[tuple[str, str], list[Data]] = {}
    for part in latest(parts):
        found.setdefault(_place(part), []).append(part)
    differs = [len(set(values)) > 1 for values in zip(*found, strict=True)]
    made: list[Place] = []
    for place, own in found.items():
        words = [word for word, tells in zip(place, differs, strict=True) if tells]
        made.append(Place(name=f" ({', '.join(words)})" if words else "", parts=own))
    return made


def latest(parts: Iterable[Data]) -> list[Data]:
    """Leave out what was measured again later at the same place.

    A whole run and its phases are one: they are left out together, and only for a later run that
    has come to an end, well or not.
    """
    parts = list(parts)
    winners: dict[tuple[str, ...], tuple[bool, str, int]] = {}
    for index, part in enumerate(parts):
        ended = {row["group"] for row in part["rows"] if row["name"] == WHOLE_RUN}
        for row in part["rows"]:
            rank = (row["group"] in ended, part.get("began", ""), index)
            key = _key(part, row)
            winners[key] = max(rank, winners.get(key, rank))
    kept: list[Data] = []
    for index, part in enumerate(parts):
        rows = [row for row in part["rows"] if winners[_key(part, row)][-1] == index]
        if rows or not part["rows"]:
            kept.append({**part, "rows": rows})
    return kept


def _place(part: Data) -> tuple[str, str]:
    return part["machine"]["gpu"] or "CPU", part["scale"]


def _key(part: Data, row: Data) -> tuple[str, ...]:
    """Name what a later row may take the place of."""
    name = "" if part["part"] == "end-to-end" else row["name"]
    return *_place(part), part["part"], row["group"], name
