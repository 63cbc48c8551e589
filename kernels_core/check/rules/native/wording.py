"""How findings in native code word what they found."""

from __future__ import annotations

from collections.abc import Sequence


def some(names: Sequence[str], most: int = 8) -> str:
    """Names in a sentence, the first few of many.

    Args:
        names: the names.
        most: how many of them to write.

    Example:
        >>> some(["a", "b", "c", "d"]), some(["a", "b", "c", "d"], 3), some([])
        ('a, b, c, d', 'a, b, c and 1 more', 'nothing in particular')
    """
    if not names:
        return "nothing in particular"
    listed = ", ".join(names[:most])
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"
