"""The dated tables that the rules for native code rest on; each names its source and its date."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any


@functools.cache
def table(name: str) -> dict[str, Any]:
    """A table.

    Args:
        name: the name of its file, without the suffix.

    Example:
        >>> table("manylinux")["policy"]
        'manylinux_2_28'
    """
    file = resources.files("kernels_core.check") / "data" / f"{name}.json"
    content: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return content
