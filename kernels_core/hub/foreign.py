"""Kernels that other programs put into the cache: the Hub's client, and Hugging Face `kernels`.

They record no lists of branches or files. A commit's snapshot shows which of its files were
downloaded, and the names of the blobs that it links to are the hashes of the files, so these are
verified like all others. This is used if no request may be sent and this package has no record of
its own.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from kernels_core.hub.answers import BUILD_FOLDER, TreeFile
from kernels_core.hub.cache import OWN_FOLDER, RepositoryCache
from kernels_core.hub.versions import Refs, is_commit
from kernels_core.repository.hashes import hash_file
from kernels_core.repository.integrity import is_ignored
from kernels_core.repository.paths import is_safe

_SHA256 = re.compile(r"[0-9a-f]{64}")
_METADATA = "metadata.json"


def cached_refs(cache: RepositoryCache) -> Refs | None:
    """The branches and tags that were loaded; None when there are none."""
    found = {}
    refs = cache.path / "refs"
    for folder, _, names in os.walk(refs):
        for path in sorted(Path(folder, name) for name in names):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                commit = path.read_text(encoding="utf-8").strip()
                name = path.relative_to(refs).as_posix()
                if is_commit(commit) and not name.startswith(f"{OWN_FOLDER}/"):
                    found[name] = commit
    return Refs.of_names(found) if found else None


def cached_tree(cache: RepositoryCache, commit: str) -> tuple[TreeFile, ...] | None:
    """The files of a commit that were downloaded; None when there are none."""
    by_variant: dict[str, list[TreeFile]] = {}
    for file in _files(cache, commit):
        by_variant.setdefault(file.path.split("/")[1], []).append(file)
    # Inspecting a repository, or locking it, downloads only the metadata of a build.
    whole = [
        files
        for files in by_variant.values()
        if any(not file.path.endswith(f"/{_METADATA}") for file in files)
    ]
    return tuple(file for files in whole for file in files) or None


def _files(cache: RepositoryCache, commit: str) -> Iterator[TreeFile]:
    snapshot = cache.snapshot(commit)
    for folder, _, names in os.walk(snapshot / BUILD_FOLDER):
        for name in names:
            path = Path(folder, name)
            relative = path.relative_to(snapshot).as_posix()
            if relative.count("/") < 2 or is_ignored(relative) or not is_safe(relative):
                continue
            with contextlib.suppress(OSError):
                yield _file(path, relative)


def _file(path: Path, relative: str) -> TreeFile:
    size = path.stat().st_size
    # Where symbolic links are not possible, there are copies, whose published hash is unknown.
    blob = Path(os.readlink(path)).name if path.is_symlink() else ""
    if _SHA256.fullmatch(blob):
        return TreeFile(relative, size, "", blob)
    return TreeFile(relative, size, blob if is_commit(blob) else hash_file(path, "git-sha1"))
