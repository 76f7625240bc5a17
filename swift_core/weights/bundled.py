"""The set of models that comes with this package."""

from pathlib import Path

from .model_set import ModelSet, open_model_set
from .seeded import seeded_model_set

BUNDLED_SET = Path(__file__).parents[1] / "swift_tiny"


def open_bundled_set() -> ModelSet:
    """Open the bundled set; without its files (a bare checkout), random weights that say so."""
    return open_model_set(BUNDLED_SET) if BUNDLED_SET.is_dir() else seeded_model_set()
