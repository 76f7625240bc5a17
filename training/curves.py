"""What a run measured: a CSV that grows with it, and a picture of it."""

import csv
from pathlib import Path


class CurveLog:
    """Write rows of numbers to a CSV, and plot them.

    Args:
        path: of the CSV.
        begin: step from which the run goes on; later rows of an interrupted run are dropped.
    """

    def __init__(self, path: Path, *, begin: int = 0) -> None:
        self.path = path
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.rows = [row for row in read_rows(path) if row["step"] < begin] if begin else []
        self._columns: list[str] = list(self.rows[0]) if self.rows else []
        if self.rows:
            self._write_all()

    def add(self, **values: float) -> None:
        """Append a row; the columns are those of the first."""
        if not self.rows:
            self._columns = list(values)
            self.rows.append(values)
            self._write_all()
            return
        self.rows.append(values)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(values)

    def plot(self) -> None:
        """Draw every column but the step over the step; does nothing without matplotlib."""
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError:
            return
        names = [name for name in self._columns if name not in ("step", "seconds", "share")]
        if len(self.rows) < 2:
            return
        figure = Figure(figsize=(8, 2.2 * len(names)), layout="constrained")
        FigureCanvasAgg(figure)
        steps = [row["step"] for row in self.rows]
        for place, name in enumerate(names, start=1):
            axes = figure.add_subplot(len(names), 1, place)
            axes.plot(steps, [row[name] for row in self.rows], linewidth=0.8)
            axes.set_ylabel(name)
            if all(row[name] > 0 for row in self.rows):
                axes.set_yscale("log")
        axes.set_xlabel("step")
        figure.savefig(self.path.with_suffix(".png"), dpi=110)

    def _write_all(self) -> None:
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(self.rows)


def read_rows(path: Path) -> list[dict[str, float]]:
    """Read a CSV back; a missing one has no rows."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
