"""Reading TOML, on Python 3.10 too, whose standard library has no parser for it."""

from __future__ import annotations

import sys
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML document.

    Args:
        text: the document.

    Raises:
        ValueError: it is not TOML; says in which line.

    Example:
        >>> parse_toml('publishers = ["org"]')
        {'publishers': ['org']}
    """
    tables: dict[str, Any] = tomllib.loads(text)
    return tables
