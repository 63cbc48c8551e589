"""Environment switches, read when they are used so that a program can change them at run time."""

from __future__ import annotations

import os

from kernels_core.errors import EnvironmentVariableError

_YES = frozenset({"1", "true", "yes", "on", "y", "t"})
_NO = frozenset({"", "0", "false", "no", "off", "n", "f"})


def flag(variable: str) -> bool:
    """Whether a yes-or-no variable is set to yes; unset and empty mean no.

    Args:
        variable: name of the environment variable.

    Raises:
        EnvironmentVariableError: the value is neither a usual spelling of yes nor one of no.

    Example:
        >>> import os
        >>> os.environ["KERNELS_STRICT_PLUGINS"] = "Yes"
        >>> flag("KERNELS_STRICT_PLUGINS")
        True
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


def names(variable: str) -> frozenset[str] | None:
    """The comma-separated names in a variable; None when it is unset.

    An empty value is an empty set, which for an allow list means "none".

    Example:
        >>> import os
        >>> os.environ["KERNELS_BACKENDS"] = "cpu, cuda"
        >>> sorted(names("KERNELS_BACKENDS"))
        ['cpu', 'cuda']
    """
    value = os.environ.get(variable)
    if value is None:
        return None
    return frozenset(part.strip().lower() for part in value.split(",") if part.strip())
