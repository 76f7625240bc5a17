"""One table of all that was measured, from the files of the parts."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .marks import AIM_SHARE, judge, uncapped_group
from .places import Data, Place, latest, places
from .whole import GIB

COLUMNS = (
    "",
    "seconds",
    "TFLOP/s",
    "of ceiling",
    "load s",
    "write s",
    "peak GiB",
    "predicted",
    "reserved",
    "host GiB",
    "PCIe GB",
    "hidden",
    "",
)


def write_table(folder: Path) -> int:
    """Read all parts in a folder, print the table and keep it; give 1 if there are none."""
    parts = read_parts(folder)
    if not parts:
        print(f"{folder} has no measurements yet")
        return 1
    text = make_table(parts)
    (folder / "table.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def read_parts(folder: Path) -> list[Data]:
    """Read the files of the parts, those of several machines too."""
    found = [json.loads(path.read_text()) for path in sorted(folder.rglob("*.json"))]
    return [data for data in found if isinstance(data, dict) and "ceiling_flops" in data]


def make_table(parts: Sequence[Data]) -> str:
    """Write everything as Markdown."""
    lines = ["# Measured", ""]
    if any(part["scale"] != "full" for part in parts):
        lines += ["**Small sizes are among these: they try the commands, and mean nothing.**", ""]
    marks = judge(parts)
    if marks:
        lines += ["## Marks", "", *_grid(("mark", "measured", "", "why"), _mark_cells(marks)), ""]
    ratios = [cells for place in places(parts) for cells in _ratio_cells(place)]
    if ratios:
        head = ("run", "seconds", "x uncapped", "peak GiB", "PCIe GB", "hidden")
        lines += ["## Smaller cards", "", *_grid(head, ratios), ""]
    for part in latest(parts):
        lines += _part_lines(part)
    return "\n".join(lines) + "\n"


def _mark_cells(marks: Iterable[Any]) -> Iterable[Sequence[str]]:
    for mark in marks:
        yield mark.name, mark.figure, "met" if mark.is_met else "**missed**", mark.why


def _part_lines(part: Data) -> list[str]:
    """Write one part: where it ran, and a table for each group."""
    machine, ceiling = part["machine"], part["ceiling_flops"]
    where = machine["gpu"] or f"CPU, {machine['threads']} threads"
    packages = ", ".join(f"{name} {seen}" for name, seen in machine["packages"].items())
    lines = [
        f"## {part['part']}",
        "",
        f"`{part['command']}` on {where}; torch {machine['torch']}, CUDA {machine.get('cuda')}, "
        f"cuDNN {machine.get('cudnn')}, {packages}; commit {machine['commit']}; "
        f"begun {part.get('began', 'at an unknown time')}; {part['scale']} size; "
        f"ceiling {ceiling / 1e12:.1f} TFLOP/s, of which {AIM_SHARE:.0%} is the aim."
        + ("" if part["complete"] else " **Cut off before its end.**"),
        "",
    ]
    for group in dict.fromkeys(row["group"] for row in part["rows"]):
        rows = [row for row in part["rows"] if row["group"] == group]
        lines += [f"### {group}" if group else "###", ""]
        lines += [*_grid(*_narrow([_cells(row, ceiling) for row in rows])), ""]
    return lines


def _cells(row: Data, ceiling: float) -> tuple[str, ...]:
    rate = row["flops"] / row["seconds"] if row["flops"] and row["seconds"] else None
    facts = ", ".join(_fact(name, value) for name, value in row["facts"].items())
    words = "; ".join(part for part in (row["error"], row["note"], facts) if part)
    return (
        row["name"],
        _number(row["seconds"], digits=4 if (row["seconds"] or 1) < 1 else 2),
        _number(rate, unit=1e12, digits=1),
        "" if rate is None else f"{rate / ceiling:.1%}",
        _number(row["load_seconds"]),
        _number(row["write_seconds"]),
        _number(row["peak_nbytes"], unit=GIB),
        _number(row["predicted_nbytes"], unit=GIB),
        _number(row["reserved_nbytes"], unit=GIB),
        _number(row["host_nbytes"], unit=GIB),
        _number(row["copied_nbytes"], unit=1e9),
        "" if row["hidden_share"] is None else f"{row['hidden_share']:.0%}",
        words.replace("|", "/"),
    )


def _ratio_cells(place: Place) -> Iterable[Sequence[str]]:
    """Hold each capped run against the one without a cap."""
    runs = {run["group"]: run for run in place.runs}
    for run in runs.values():
        base = runs.get(uncapped_group(run)) if "cap_gib" in run["facts"] else None
        if base is None:
            continue
        seconds = run["facts"]["wall_seconds"]
        yield (
            run["group"] + place.name,
            _number(seconds),
            f"{seconds / base['facts']['wall_seconds']:.3f}",
            _number(run["peak_nbytes"], unit=GIB),
            _number(run["copied_nbytes"], unit=1e9),
            "" if run["hidden_share"] is None else f"{run['hidden_share']:.0%}",
        )


def _narrow(
    cells: Sequence[tuple[str, ...]],
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Leave out the columns that nothing stands in."""
    kept = [index for index in range(len(COLUMNS)) if any(row[index] for row in cells)]
    head = tuple(COLUMNS[index] for index in kept)
    return head, [tuple(row[index] for index in kept) for row in cells]


def _grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def _number(value: float | None, *, unit: float = 1, digits: int = 2) -> str:
    return "" if value is None else f"{value / unit:.{digits}f}"


def _fact(name: str, value: Any) -> str:
    if isinstance(value, int | float) and "nbytes" in name:
        return f"{name.replace('nbytes', 'gigabytes')} {value / 1e9:.4g}"
    return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
