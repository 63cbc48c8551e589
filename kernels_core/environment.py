"""Environment variables, read on every use so that a program can change them at run time."""

from __future__ import annotations

import os
from collections.abc import Sequence

from kernels_core.errors import EnvironmentVariableError

_YES = frozenset({"1", "true", "yes", "on", "y", "t"})
_NO = frozenset({"", "0", "false", "no", "off", "n", "f"})


def flag(variable: str) -> bool:
    """Whether a yes-or-no variable is set to yes; unset and empty mean no.

    Raises `EnvironmentVariableError` for any other value.
    """
    value = os.environ.get(variable, "").strip().lower()
    if value in _YES:
        return True
    if value in _NO:
        return False
    raise EnvironmentVariableError(
        f"{variable}={os.environ[variable]!r} is neither yes nor no: "
        f"use 1, true, yes or on, or 0, false, no or off.",
        variable=variable,
    )


def choice(variable: str, values: Sequence[str]) -> str | None:
    """The value of a variable that must be one of a few; None when it is unset or empty.

    Raises `EnvironmentVariableError` for any other value.
    """
    value = os.environ.get(variable, "").strip().lower()
    if value in ("", *values):
        return value or None
    raise EnvironmentVariableError(
        f"{variable}={os.environ[variable]!r} is not one of {', '.join(values)}.",
        variable=variable,
    )


def names(variable: str) -> frozenset[str] | None:
    """The comma-separated names in a variable; None when it is unset.

    An empty value is an empty set, which for an allow list means "none".
    """
    value = os.environ.get(variable)
    if value is None:
        return None
    return frozenset(part.strip().lower() for part in value.split(",") if part.strip())
