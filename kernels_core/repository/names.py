"""How repositories on the Hub, and those who publish them, are named."""

from __future__ import annotations

import re

PUBLISHER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
REPO_ID = re.compile(rf"{PUBLISHER.pattern}/{PUBLISHER.pattern}")


def check_repo_id(repo_id: object) -> None:
    """Refuse what is not the name of a repository on the Hub.

    Raises:
        TypeError: it is not a string.
        ValueError: it does not have the form "org/name".

    Example:
        >>> check_repo_id("org/activation")
        >>> check_repo_id("../activation")
        Traceback (most recent call last):
        ...
        ValueError: repo_id must have the form 'organization/name', got '../activation'.
    """
    if not isinstance(repo_id, str):
        raise TypeError(f"repo_id must be a str such as 'org/name', got {repo_id!r}.")
    if not REPO_ID.fullmatch(repo_id):
        raise ValueError(f"repo_id must have the form 'organization/name', got {repo_id!r}.")


def publisher_of(repo_id: str) -> str:
    """The organization or user that a repository belongs to.

    Raises:
        TypeError, ValueError: as for `check_repo_id`.

    Example:
        >>> publisher_of("org/name")
        'org'
    """
    check_repo_id(repo_id)
    return repo_id.partition("/")[0]
