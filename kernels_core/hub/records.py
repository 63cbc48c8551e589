"""Records in the cache of earlier answers of the Hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs

from kernels_core.hub.answers import TreeFile, refs_from_json, tree_file_from_json
from kernels_core.hub.cache import RepositoryCache
from kernels_core.hub.versions import Refs
from kernels_core.repository import schema

T = TypeVar("T")

REFS = "refs"
_PUBLISHER = "publisher"


def recall_refs(cache: RepositoryCache) -> Refs | None:
    """The branches and tags of a repository at the last request; None when there was none."""
    return _read(cache, REFS, refs_from_json)


def remember_refs(cache: RepositoryCache, refs: Refs) -> None:
    """Keep the branches and tags of a repository."""

    def listed(named: Mapping[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "targetCommit": commit} for name, commit in named.items()]

    named = {"branches": refs.branches, "tags": refs.tags, "others": refs.others}
    cache.remember(REFS, {kind: listed(names) for kind, names in named.items()})


def of_another_hub(cache: RepositoryCache, commit: str | None = None) -> RepositoryCache | None:
    """The cache with the records of another Hub, if it has those and not this Hub's.

    The record is that of branches and tags, or of the files of a commit. What another Hub answered
    about publishers is never used.
    """
    endpoint = cache.endpoint_of(REFS if commit is None else _tree(commit))
    if endpoint is None or endpoint == cache.endpoint:
        return None
    return attrs.evolve(cache, endpoint=endpoint)


def recall_tree(cache: RepositoryCache, commit: str) -> tuple[TreeFile, ...] | None:
    """The files of a commit; None when they were never requested."""

    def read(value: Any, key: str) -> tuple[TreeFile, ...]:
        return schema.required(value, "files", schema.list_of(tree_file_from_json), key)

    return _read(cache, _tree(commit), read)


def remember_tree(cache: RepositoryCache, commit: str, files: tuple[TreeFile, ...]) -> None:
    """Keep the files of a commit."""
    listed = []
    for file in files:
        entry: dict[str, Any] = {"path": file.path, "size": file.size, "oid": file.oid}
        if file.lfs_sha256 is not None:
            entry["lfs"] = {"oid": file.lfs_sha256}
        listed.append(entry)
    cache.remember(_tree(commit), {"files": listed})


def forget_tree(cache: RepositoryCache, commit: str) -> None:
    """Drop the files of a commit, which are then requested again."""
    cache.forget(_tree(commit))


def _tree(commit: str) -> str:
    return f"trees/{commit}"


@attrs.frozen
class PublisherRecord:
    """The Hub's last answer about a repository's publisher; see `trust.TrustRecord`.

    It is kept with the repository, so that an answer is not used for another repository.
    """

    cache: RepositoryCache

    def recall(self, publisher: str) -> bool | None:
        """The last answer about a publisher; None when there is none."""
        record = self.cache.recall(_PUBLISHER) or {}
        trusted = record.get("trusted")
        return trusted if record.get("name") == publisher and isinstance(trusted, bool) else None

    def remember(self, publisher: str, trusted: bool) -> None:
        """Keep an answer, which replaces the previous one."""
        if self.recall(publisher) is not trusted:
            self.cache.remember(_PUBLISHER, {"name": publisher, "trusted": trusted})


def _read(cache: RepositoryCache, name: str, read: Callable[[Any, str], T]) -> T | None:
    record = cache.recall(name)
    if record is None:
        return None
    try:
        return read(record, "")
    except schema.InvalidError:
        return None
