"""How repositories on the Hub, their publishers and their versions are named."""

from __future__ import annotations

import re
from collections.abc import Iterable

PUBLISHER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
REPO_ID = re.compile(rf"{PUBLISHER.pattern}/{PUBLISHER.pattern}")


def check_repo_id(repo_id: object) -> None:
    """Raise a TypeError or ValueError for what is not the name of a repository on the Hub."""
    if not isinstance(repo_id, str):
        raise TypeError(f"repo_id must be a str such as 'org/name', got {repo_id!r}.")
    if not REPO_ID.fullmatch(repo_id):
        raise ValueError(f"repo_id must have the form 'organization/name', got {repo_id!r}.")


def publisher_of(repo_id: str) -> str:
    """The organization or user that a repository belongs to; checks the name."""
    check_repo_id(repo_id)
    return repo_id.partition("/")[0]


def trusted_names(trust_remote_code: object) -> bool | tuple[str, ...]:
    """Make `trust_remote_code` a value that can be compared and kept.

    Raises a TypeError when it is neither a bool nor a list of names.
    """
    if isinstance(trust_remote_code, bool):
        return trust_remote_code
    if isinstance(trust_remote_code, str) or not isinstance(trust_remote_code, Iterable):
        raise TypeError(
            f"trust_remote_code must be a bool or a list of names, got {trust_remote_code!r}."
        )
    return tuple(trust_remote_code)


def check_reference(revision: object, version: object) -> None:
    """Raise a TypeError or ValueError if a revision and version do not identify a commit."""
    check_version(version)
    if revision is not None and not isinstance(revision, str):
        raise TypeError(f"revision must be a branch, tag or commit, got {revision!r}.")
    if revision is not None and version is not None:
        raise ValueError("Give revision or version, not both: each of them names a commit.")


def check_version(version: object) -> None:
    """Raise a TypeError or ValueError for what cannot select a version."""
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
        advice = "for exactly one version write '==0.0.3'."
        if version.strip().isdecimal():
            advice = f"for the major version {version.strip()} write the number, without quotes."
        raise ValueError(
            f"version {version!r} is not a PEP 440 specifier such as '>=0.0.3,<0.1'; {advice}"
        ) from None
