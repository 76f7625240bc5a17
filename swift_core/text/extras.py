"""Libraries that only some text encoders need: imported when used, and named when missing.

Whoever stays with the small sets, or runs inside ComfyUI, installs none of them.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ..errors import PackageError

_INSTALL = "pip install transformers sentencepiece ftfy"
"""As ``requirements/text.txt`` has it; that file is not where ComfyUI installs the pack."""


def require(package: str, purpose: str) -> Any:
    """Import a package.

    Args:
        purpose: what it is needed for, as the subject of a sentence.

    Raises:
        PackageError: if it is not installed, or cannot be imported.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise PackageError(
            f"{purpose} needs the package {package}, which cannot be imported here ({error}); "
            f"install what text needs: {_INSTALL}."
        ) from error


def is_there(package: str) -> bool:
    """Tell whether a package is installed, without importing it."""
    return find_spec(package) is not None
