"""The dated tables that rules rest on: what changes with releases of torch and of toolkits."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any


@functools.cache
def table(name: str) -> dict[str, Any]:
    """A table; each has the keys `source` and `date`.

    Args:
        name: the name of its file in `data`, without the suffix.

    Example:
        >>> table("required_variants")["date"]
        '2026-08'
    """
    file = resources.files("kernels_core.check") / "data" / f"{name}.json"
    content: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return content
