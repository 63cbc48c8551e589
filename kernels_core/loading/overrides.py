"""Directories that stand in for repositories of the Hub, as the user's environment says."""

from __future__ import annotations

import os
from pathlib import Path

from kernels_core.errors import EnvironmentVariableError

VARIABLE = "LOCAL_KERNELS"


def local_override(repo_id: str) -> Path | None:
    """The directory that `LOCAL_KERNELS` names for a repository; None when it names none.

    The variable holds entries `org/name=path`, joined by the platform's path separator.

    Args:
        repo_id: the repository, "org/name".

    Raises:
        EnvironmentVariableError: an entry has not that form.

    Example:
        >>> import os
        >>> os.environ["LOCAL_KERNELS"] = "org/activation=/kernels/activation"
        >>> local_override("org/activation").name
        'activation'
        >>> local_override("org/norms") is None
        True
    """
    named = {}
    for entry in os.environ.get(VARIABLE, "").split(os.pathsep):
        if not entry.strip():
            continue
        name, equals, path = entry.partition("=")
        if not equals or not path.strip() or name.count("/") != 1:
            raise EnvironmentVariableError(
                f"{VARIABLE} has the entry {entry!r}, which is not of the form 'org/name=path'. "
                f"Entries are joined by {os.pathsep!r}.",
                variable=VARIABLE,
            )
        named[name.strip()] = Path(path.strip()).expanduser().absolute()
    return named.get(repo_id)
