"""Environment variables, read on every use so that a program can change them at run time."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from kernels_core.errors import EnvironmentVariableError

_YES = frozenset({"1", "true", "yes", "on", "y", "t"})
_NO = frozenset({"", "0", "false", "no", "off", "n", "f"})
HOME = "USERPROFILE" if sys.platform == "win32" else "HOME"


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


# Paths. One that cannot be expanded is never used as it is: it would be in the working directory,
# whose files are not the user's.


def path(variable: str, value: str | None = None) -> Path | None:
    """The path in a variable, with `~` and `$NAME` expanded; None when it is unset or empty.

    `value` is the path if it is only a part of what the variable is set to. Raises
    `EnvironmentVariableError` when it begins with a variable that is unset, and as `expand_home`.
    """
    value = os.environ.get(variable) if value is None else value
    if not value:
        return None
    expanded = os.path.expandvars(value)
    if not expanded or expanded[0] == "$":
        raise EnvironmentVariableError(
            f"{variable}={value!r} begins with a variable that is unset or empty: set it, or use "
            f"an absolute path.",
            variable=variable,
        )
    return expand_home(expanded, variable)


def expand_home(path: str | os.PathLike[str], source: str) -> Path:
    """A path with `~` and `~user` expanded; `source` is the variable or argument that it is from.

    Raises `EnvironmentVariableError` when there is no such home directory.
    """
    given = Path(path)
    if not os.fspath(path).startswith("~"):
        return given
    user, *rest = given.parts
    directory = home(user)
    if directory is None:
        raise EnvironmentVariableError(
            f"{source}={os.fspath(path)!r} cannot be used, because there is no home directory for "
            f"{user!r}: use an absolute path, or set {HOME} to one.",
            variable=source if source in os.environ else HOME,
        )
    return directory.joinpath(*rest)


def home(user: str = "~") -> Path | None:
    """The home directory of `~` or `~user`; None when there is none."""
    directory = os.path.expanduser(user)
    # An empty HOME would be the root directory.
    if (user == "~" and os.environ.get(HOME) == "") or not os.path.isabs(directory):
        return None
    return Path(directory)
