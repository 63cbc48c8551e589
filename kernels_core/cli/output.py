"""How commands print their results, and keep standard output free of anything else."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

import click

from kernels_core.cli.program import Failure
from kernels_core.errors import KernelsError, ProjectError

_GAP = "  "
_NARROWEST = 12


def show(report: object, text: str, as_json: bool) -> None:
    """Print a report as its text or, with `--json`, as one JSON object."""
    click.echo(to_json(report) if as_json else text)


def to_json(report: object) -> str:
    """A report as JSON: the keys of an attrs object are its attributes."""
    return json.dumps(plain(report), indent=2)


def plain(value: object) -> Any:
    """Convert a value to what JSON supports: sets to sorted lists, unsupported values to text.

    Example:
        >>> from kernels_core.device import DeviceFacts
        >>> plain({"facts": DeviceFacts(0, "Acme One"), "names": {"b", "a"}, 1: (9, 0)})
        {'facts': {'index': 0, 'name': 'Acme One'}, 'names': ['a', 'b'], '1': [9, 0]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Set):
        return sorted(map(plain, value), key=str)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    # What `attrs.fields` returns. Importing attrs would make `kernels-core --help` slower by half.
    fields = getattr(type(value), "__attrs_attrs__", None)
    if fields is not None:
        return {field.name: plain(getattr(value, field.name)) for field in fields}
    return value if _is_json(value) else str(value)


def _is_json(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (bool, int, str))


def as_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Text in columns that fit the terminal, if there is one; empty columns are left out.

    Example:
        >>> print(as_table(["kernel", "note", "builds"], [["org/activation", "", "12"]]))
        KERNEL          BUILDS
        org/activation  12
    """
    columns = [
        (heading.upper(), *cells)
        for heading, *cells in zip(headings, *rows, strict=True)
        if any(cells)
    ]
    widths = _fitting([max(map(len, column)) for column in columns], width())
    return "\n".join(
        _GAP.join(map(str.ljust, line, widths)).rstrip()
        for row in zip(*columns, strict=True)
        for line in _lines(row, widths)
    )


def _fitting(widths: list[int], limit: int | None) -> list[int]:
    """Take from the widest columns what does not fit, but leave each of them readable."""
    gaps = len(_GAP) * (len(widths) - 1)
    while limit and sum(widths) + gaps > limit and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return widths


def _lines(row: Sequence[str], widths: Sequence[int]) -> Iterator[Sequence[str]]:
    """The lines of a row whose cells are wrapped."""
    cells = [
        textwrap.wrap(cell, size) if len(cell) > size else [cell]
        for cell, size in zip(row, widths, strict=True)
    ]
    return itertools.zip_longest(*cells, fillvalue="")


def size_text(size: int) -> str:
    """A number of bytes in readable units.

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


def width() -> int | None:
    """The width of the terminal; None if the output is a file or a pipe."""
    return os.get_terminal_size().columns if sys.stdout.isatty() else None


def has_colours() -> bool:
    """Whether standard output is a terminal whose user has not switched colours off."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


@contextlib.contextmanager
def errors_for_people() -> Iterator[None]:
    """Print an error without its traceback: exit status 2 for a malformed project, else 1."""
    try:
        yield
    except (KernelsError, OSError) as error:
        status = 2 if isinstance(error, ProjectError) else 1
        raise Failure(str(error), kind=type(error).__name__, status=status) from error


@contextlib.contextmanager
def only_the_result_on_stdout() -> Iterator[None]:
    """Redirect what plugins and native libraries print to standard error."""
    sys.stdout.flush()
    # Names of devices and tracebacks may have characters that the terminal's encoding lacks.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    stdout, stderr = 1, 2
    kept = os.dup(stdout)
    os.dup2(stderr, stdout)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, stdout)
        os.close(kept)
