"""Tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def as_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Text in columns. Columns with nothing in them are left out.

    Args:
        headings: what stands above each column.
        rows: the cells of each row.

    Example:
        >>> print(as_table(["kernel", "note", "builds"], [["org/activation", "", "12"]]))
        KERNEL          BUILDS
        org/activation  12
    """
    cells = [list(row) for row in rows]
    kept = [column for column in range(len(headings)) if any(row[column] for row in cells)]
    table = [[headings[column].upper() for column in kept]]
    table += [[row[column] for column in kept] for row in cells]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )


def size_text(size: int) -> str:
    """A number of bytes for people.

    Example:
        >>> size_text(512), size_text(1_500_000)
        ('512 B', '1.5 MB')
    """
    amount, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.3g} {unit}"
