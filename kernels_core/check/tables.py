"""The dated tables that rules use: what changes with releases of torch and of toolkits."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any


@functools.cache
def table(name: str) -> dict[str, Any]:
    """A file in `data`, by its name without suffix; each has the keys `source` and `date`."""
    file = resources.files("kernels_core.check") / "data" / f"{name}.json"
    content: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return content
