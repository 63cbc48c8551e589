"""How findings in native code word what they found."""

from __future__ import annotations

from collections.abc import Sequence

_MOST = 8


def some(names: Sequence[str]) -> str:
    """Names in a sentence, the first few of many.

    Args:
        names: at least one.

    Example:
        >>> some(["a", "b"]), some([str(number) for number in range(10)])
        ('a, b', '0, 1, 2, 3, 4, 5, 6, 7 and 2 more')
    """
    listed = ", ".join(names[:_MOST])
    return listed if len(names) <= _MOST else f"{listed} and {len(names) - _MOST} more"
