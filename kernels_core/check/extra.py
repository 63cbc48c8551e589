"""What is installed with `kernels-core[check]` only."""

from __future__ import annotations

import importlib
from typing import Any

from kernels_core.errors import CheckError


def extra(module: str) -> Any:
    """Import a module that needs the extra `check`.

    Args:
        module: its name, with dots.

    Raises:
        CheckError: something that it needs is not installed.

    Example:
        >>> "Py_NewRef" in {symbol.name for symbol in extra("abi3info").FUNCTIONS}
        True
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise CheckError(
            f"To check native code, {error.name} is needed: pip install 'kernels-core[check]'"
        ) from error
