"""Repositories as the Hub keeps them: commits with files, branches and tags that point to them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import PurePosixPath

import attrs


def git_oid(content: bytes, kind: str = "blob") -> str:
    """The id that Git gives to an object."""
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content).hexdigest()


@attrs.frozen(slots=False)
class File:
    """A file of a commit, in Git or in large-file storage."""

    content: bytes
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        """The id in large-file storage."""
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        """What Git holds in place of a file in large-file storage."""
        version = "https://git-lfs.github.com/spec/v1"
        size = len(self.content)
        return f"version {version}\noid sha256:{self.sha256}\nsize {size}\n".encode()

    @cached_property
    def oid(self) -> str:
        """The id of the blob in Git."""
        return git_oid(self.pointer if self.lfs else self.content)

    @property
    def etag(self) -> str:
        """What identifies the content to a client that downloads it."""
        return self.sha256 if self.lfs else self.oid

    def entry(self, path: str) -> dict[str, object]:
        """The file in a listing."""
        entry: dict[str, object] = {
            "type": "file",
            "oid": self.oid,
            "size": len(self.content),
            "path": path,
        }
        if self.lfs:
            pointer = {"oid": self.sha256, "size": len(self.content)}
            entry["lfs"] = {**pointer, "pointerSize": len(self.pointer)}
        return entry


@attrs.frozen
class Commit:
    """All files at one moment."""

    oid: str
    files: Mapping[str, File]

    def listing(self, folder: str, *, recursive: bool) -> list[dict[str, object]] | None:
        """The files and folders in a folder; None when there is no such folder."""
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, object]] = {}
        for path, file in sorted(self.files.items()):
            if not path.startswith(prefix):
                continue
            inside = path[len(prefix) :].split("/")
            for depth in range(1, len(inside)) if recursive else range(1, min(2, len(inside))):
                parent = prefix + "/".join(inside[:depth])
                entries.setdefault(parent, self._folder_entry(parent))
            if recursive or len(inside) == 1:
                entries[path] = file.entry(path)
        return list(entries.values()) if entries or not folder else None

    def _folder_entry(self, path: str) -> dict[str, object]:
        oid = git_oid(f"{self.oid} {path}".encode(), "tree")
        return {"type": "directory", "oid": oid, "size": 0, "path": path}


@attrs.define
class Repository:
    """A repository: its commits, branches and tags.

    Attributes:
        repo_id: "org/name".
        repo_type: "kernel" or "model".
        others: what its revisions are beside its branches, tags and commits, by ref.
        pages_forever: whether listings never end.
        next_page: the address of the next page of listings, instead of one here.
        more_entries: entries of listings beside those of the files.
    """

    repo_id: str
    repo_type: str
    pages_forever: bool = False
    next_page: str = ""
    more_entries: list[dict[str, object]] = attrs.field(factory=list)
    commits: dict[str, Commit] = attrs.field(factory=dict)
    branches: dict[str, str] = attrs.field(factory=dict)
    tags: dict[str, str] = attrs.field(factory=dict)
    others: dict[str, str] = attrs.field(factory=dict)

    def commit(self, files: Mapping[str, bytes | str], lfs: Iterable[str]) -> str:
        """Make a commit of files, those that match a pattern in large-file storage."""
        made = {}
        for path, content in files.items():
            raw = content.encode() if isinstance(content, str) else content
            large = any(PurePosixPath(path).match(pattern) for pattern in lfs)
            made[path] = File(raw, large)
        tree = "".join(f"{path}\0{file.oid}\n" for path, file in sorted(made.items()))
        oid = git_oid(f"{self.repo_type} {self.repo_id}\n{tree}".encode(), "commit")
        self.commits[oid] = Commit(oid, made)
        return oid

    def find(self, revision: str) -> Commit | None:
        """The commit that a ref, or a commit's id or its first digits, names."""
        if revision in self.others:
            return self.commits[self.others[revision]]
        for prefix in ("refs/heads/", "refs/tags/"):
            revision = revision.removeprefix(prefix)
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        short = [commit for known, commit in self.commits.items() if known.startswith(oid)]
        return short[0] if len(short) == 1 and len(oid) >= 7 else None

    def refs(self) -> dict[str, list[dict[str, str]]]:
        """Its branches and tags, as the Hub lists them."""
        return {
            "branches": _refs("heads", self.branches),
            "converts": [],
            "tags": _refs("tags", self.tags),
        }


def _refs(kind: str, refs: Mapping[str, str]) -> list[dict[str, str]]:
    return [
        {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid}
        for name, oid in refs.items()
    ]
