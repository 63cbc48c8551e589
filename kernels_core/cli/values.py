"""Values as what JSON knows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from typing import Any

import attrs


def plain(value: object) -> Any:
    """A value in terms of dicts, lists, strings, numbers, booleans and None.

    Objects of attrs classes become dicts of their attributes, sets sorted lists; what JSON has no
    form for becomes text.

    Args:
        value: any value.

    Example:
        >>> from kernels_core.device import DeviceFacts
        >>> plain({"facts": DeviceFacts(0, "Acme One"), "names": {"b", "a"}, 1: (9, 0)})
        {'facts': {'index': 0, 'name': 'Acme One'}, 'names': ['a', 'b'], '1': [9, 0]}
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Set):
        return sorted(map(plain, value), key=str)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    kind = type(value)
    if attrs.has(kind):
        return {each.name: plain(getattr(value, each.name)) for each in attrs.fields(kind)}
    return str(value)
