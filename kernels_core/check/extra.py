"""Libraries that only the extra `kernels-core[check]` installs."""

from __future__ import annotations

import importlib
from typing import Any

from kernels_core.errors import CheckError


def extra(module: str) -> Any:
    """Import a module that needs the extra. Raises `CheckError` where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise CheckError(
            f"Checking native code needs {error.name}: pip install 'kernels-core[check]'"
        ) from error
