"""The manifest of a bundle: its kernels, and the size and hash of every file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from kernels_core.errors import BundleError
from kernels_core.hub.records import REFS
from kernels_core.repository import schema
from kernels_core.repository.paths import first_collision, is_safe

MANIFEST = "kernels-bundle.json"

_FORMAT = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REPOSITORY = r"(?:kernel|model)s--(?P<org>[\w.-]+)--(?P<name>[\w.-]+)"
_BUILD = re.compile(
    rf"{_REPOSITORY}/snapshots/(?P<commit>[0-9a-f]{{40}})/build/(?P<variant>[^/]+)/"
)
_RECORD = re.compile(
    rf"{_REPOSITORY}/(kernels-core/(?P<record>.+)\.json|refs/kernels-core/[0-9a-f]{{40}})"
)


@attrs.frozen
class BundledKernel:
    """A commit in a bundle, with the names of its builds."""

    repo_id: str
    commit: str
    variants: tuple[str, ...]


@attrs.frozen
class BundledFile:
    """A file in a bundle; its size is in bytes."""

    size: int
    sha256: str


@attrs.frozen
class Manifest:
    """All files in a bundle except the manifest itself, by their path in the bundle."""

    files: Mapping[str, BundledFile]

    @property
    def kernels(self) -> tuple[BundledKernel, ...]:
        """The kernels, by repository and commit."""
        variants: dict[tuple[str, str], set[str]] = {}
        for path in self.files:
            if match := _BUILD.match(path):
                found = variants.setdefault(
                    (f"{match['org']}/{match['name']}", match["commit"]), set()
                )
                found.add(match["variant"])
        return tuple(
            BundledKernel(repo_id, commit, tuple(sorted(found)))
            for (repo_id, commit), found in sorted(variants.items())
        )

    @property
    def size(self) -> int:
        """Number of bytes of all files."""
        return sum(file.size for file in self.files.values())

    @property
    def content(self) -> bytes:
        """The content of the file."""
        return json.dumps({"format": _FORMAT, **attrs.asdict(self)}).encode() + b"\n"

    @property
    def digest(self) -> str:
        """The hash of the manifest, and so of everything in the bundle."""
        return f"sha256:{hashlib.sha256(self.content).hexdigest()}"


def build_of(path: str) -> tuple[str, str] | None:
    """Split a path in a bundle into the directory of a build and the rest; None for other files."""
    match = _BUILD.match(path)
    return (match[0].rstrip("/"), path[match.end() :]) if match else None


def may_change(path: str) -> bool:
    """Whether programs that load from a bundle may replace a file: a new answer about branches."""
    match = _RECORD.fullmatch(path)
    return match is not None and match["record"] == REFS


def read_manifest(content: bytes, bundle: Path) -> Manifest:
    """Read a manifest; a BundleError when it is malformed or lists paths that are not allowed."""
    try:
        manifest = schema.read_content(content, _manifest)
        if manifest.content != content:
            raise schema.InvalidError("", "differs from what 'kernels-core bundle' writes.")
    except schema.InvalidError as error:
        raise BundleError(f"{MANIFEST} in {bundle}: {error}", path=bundle) from None
    return manifest


def _manifest(value: Any) -> Manifest:
    table = schema.read_object(value, "")
    schema.required(table, "format", _format, "")
    files = schema.required(table, "files", schema.read_object, "")
    _check_paths(files)
    return Manifest({path: _file(entry, path) for path, entry in files.items()})


def _format(value: Any, key: str) -> None:
    if value != _FORMAT:
        schema.fail(key, value, f"{_FORMAT}, the only format that this version reads")


def _file(value: Any, key: str) -> BundledFile:
    table = schema.read_object(value, key)
    return BundledFile(
        schema.required(table, "size", _size, key), schema.required(table, "sha256", _sha256, key)
    )


def _size(value: Any, key: str) -> int:
    if type(value) is not int or value < 0:
        schema.fail(key, value, "a number of bytes")
    return value


def _sha256(value: Any, key: str) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        schema.fail(key, value, "64 hexadecimal digits")
    return value


def _check_paths(paths: Iterable[str]) -> None:
    paths = list(paths)
    for path in paths:
        if not is_safe(path):
            raise schema.InvalidError(path, f"lists the unsafe path {path!r}.")
        if not (_BUILD.match(path) or _RECORD.fullmatch(path)):
            raise schema.InvalidError(path, f"lists {path!r}, which does not belong in a bundle.")
    if collision := first_collision(paths):
        both = " and ".join(map(repr, collision))
        raise schema.InvalidError(
            collision[0], f"lists {both}, which are the same file on some systems."
        )
