"""How repositories on the Hub, their publishers and their versions are named."""

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


def check_reference(revision: object, version: object) -> None:
    """Refuse what cannot say which commit of a repository is meant.

    Args:
        revision: a branch, tag or commit, or None.
        version: see `check_version`.

    Raises:
        TypeError: one of them is of another type.
        ValueError: both are given, or the version is malformed.

    Example:
        >>> check_reference("main", None)
        >>> check_reference("main", 1)
        Traceback (most recent call last):
        ...
        ValueError: Give revision or version, not both: each of them names a commit.
    """
    check_version(version)
    if revision is not None and not isinstance(revision, str):
        raise TypeError(f"revision must be a branch, tag or commit, got {revision!r}.")
    if revision is not None and version is not None:
        raise ValueError("Give revision or version, not both: each of them names a commit.")


def check_version(version: object) -> None:
    """Refuse what cannot choose a version.

    Args:
        version: a PEP 440 specifier, a major version, or None.

    Raises:
        TypeError: it is of another type.
        ValueError: the specifier is malformed, or the major version negative.

    Example:
        >>> check_version(">=0.0.3,<0.1")
        >>> check_version("0.0.3")
        Traceback (most recent call last):
        ...
        ValueError: version '0.0.3' is not a PEP 440 specifier ... write '==0.0.3'.
    """
    if version is None:
        return
    if isinstance(version, bool) or not isinstance(version, (int, str)):
        raise TypeError(
            f"version must be a specifier such as '>=0.0.3,<0.1' or a major version such as 1, "
            f"got {version!r}."
        )
    if isinstance(version, int):
        if version < 0:
            raise ValueError(f"version must not be negative, got {version}.")
        return
    # Declaring layers imports this module, and should not import a parser of versions.
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        SpecifierSet(version)
    except InvalidSpecifier:
        raise ValueError(
            f"version {version!r} is not a PEP 440 specifier such as '>=0.0.3,<0.1'; "
            f"for exactly one version write '==0.0.3'."
        ) from None
