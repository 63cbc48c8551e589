"""Whether the files of a build are those that were published.

Two lists say which files those are: the tree of the commit, which the Hub lists with the hash of
every file, and the digest in a build's `metadata.json`. Files on disk are compared with both, and a
file that is not listed is as wrong as one that differs: it could be imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from kernels_core.errors import DigestError
from kernels_core.repository.hashes import FileHash, hash_file_as
from kernels_core.repository.metadata import Metadata
from kernels_core.repository.paths import first_collision, is_safe

_SHOWN = 5

# Files that a digest in `metadata.json` leaves out.
_NOT_IN_DIGEST = frozenset({"metadata.json", "metadata.json.sigstore"})


def verify_tree(
    variant_dir: Path, expected: Mapping[str, FileHash], *, repository: str | None = None
) -> None:
    """Make sure that a variant directory holds the expected files and nothing else.

    Bytecode in `__pycache__` directories is ignored, expected or not: a kernel's modules are always
    compiled from source, and other programs may write it there.

    Args:
        variant_dir: the directory of the build. Links to files are followed, since the cache of
            the Hub client is made of them; a link to a directory is refused.
        expected: the hash of each file, by its path relative to the directory.
        repository: the repository's name in errors; the directory by default.

    Raises:
        DigestError: a file is missing, differs or is not expected, or a path is unsafe or the same
            as another on some file systems.

    Example:
        >>> import tempfile
        >>> build = Path(tempfile.mkdtemp())
        >>> (build / "__init__.py").touch()
        >>> empty = FileHash("git-sha1", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391")
        >>> verify_tree(build, {"__init__.py": empty})
        >>> verify_tree(build, {})
        Traceback (most recent call last):
        ...
        kernels_core.errors.DigestError: ...__init__.py: expected no such file, got a file...
    """
    verify_build(variant_dir, expected, None, repository=repository)


def verify_build(
    variant_dir: Path,
    expected: Mapping[str, FileHash] | None,
    metadata: Metadata | None,
    *,
    repository: str | None = None,
) -> None:
    """Verify a build as `verify_tree` does, and also against the digest in its metadata.

    The digest covers every file but `metadata.json`, its signature, and bytecode. Metadata without
    a digest is no reason to refuse. With None as `expected`, only the metadata lists the files.
    """
    problems = file_problems(variant_dir, expected, metadata)
    if problems:
        raise _digest_error(variant_dir, problems, repository)


def file_problems(
    variant_dir: Path, expected: Mapping[str, FileHash] | None, metadata: Metadata | None
) -> tuple[FileProblem, ...]:
    """What `verify_build` finds wrong, file by file."""
    lists = []
    if expected is not None:
        lists.append(_List(expected, frozenset()))
    if metadata is not None and metadata.digest is not None:
        digest = metadata.digest
        hashes = {path: FileHash(digest.algorithm, raw.hex()) for path, raw in digest.files}
        lists.append(_List(hashes, _NOT_IN_DIGEST))
    return tuple(dict.fromkeys(_problems(variant_dir, lists)))


def verify_file(path: Path, expected: FileHash, *, repository: str | None = None) -> None:
    """Make sure that a single file is the expected one, or raise a DigestError."""
    problems = list(_compare(path.parent, path.name, [expected]))
    if problems:
        raise _digest_error(path.parent, problems, repository)


def is_ignored(path: str) -> bool:
    """Whether a file is neither verified nor needed: bytecode in a `__pycache__` directory."""
    parts = path.split("/")
    return len(parts) > 1 and parts[-2] == "__pycache__" and is_bytecode(path)


def is_bytecode(path: str) -> bool:
    """Whether a file is bytecode by its name."""
    return path.lower().endswith((".pyc", ".pyo"))


@attrs.frozen
class _List:
    """Hashes by path, and the paths that may exist without being listed."""

    hashes: Mapping[str, FileHash]
    left_out: frozenset[str]


@attrs.frozen
class FileProblem:
    """A file of a build that differs from what was published.

    Attributes:
        path: relative to the variant directory.
        expected: what was expected there.
        got: what was found.
    """

    path: str
    expected: str
    got: str


def _problems(variant_dir: Path, lists: list[_List]) -> Iterator[FileProblem]:
    for listed in lists:
        yield from _problems_of_paths(listed.hashes)
    found = set()
    for path, instead in sorted(_walk(variant_dir)):
        if problem := _unexpected(path, instead, lists):
            yield problem
        else:
            found.add(path)
    for path, hashes in sorted(_hashes_by_path(lists).items()):
        if path in found:
            yield from _compare(variant_dir, path, hashes)
        else:
            yield FileProblem(path, " and ".join(map(str, hashes)), "no such file")


def _hashes_by_path(lists: list[_List]) -> dict[str, list[FileHash]]:
    hashes: dict[str, list[FileHash]] = {}
    for listed in lists:
        for path, file_hash in listed.hashes.items():
            if is_safe(path) and not is_ignored(path):
                hashes.setdefault(path, []).append(file_hash)
    return hashes


def _unexpected(path: str, instead: str, lists: list[_List]) -> FileProblem | None:
    """The problem with a path that exists, whatever it holds."""
    if instead:
        return FileProblem(path, "no such entry", instead)
    if is_bytecode(path):
        return FileProblem(path, "no bytecode, which cannot be checked,", "a file")
    if any(path not in listed.hashes and path not in listed.left_out for listed in lists):
        return FileProblem(path, "no such file", "a file that is not listed")
    return None


def _problems_of_paths(paths: Iterable[str]) -> Iterator[FileProblem]:
    safe = []
    for path in paths:
        if is_safe(path):
            safe.append(path)
        else:
            yield FileProblem(path, "a path inside the build", "an unsafe path")
    if collision := first_collision(safe):
        yield FileProblem(collision[1], "one file for each path", f"the same as {collision[0]}")


def _compare(directory: Path, path: str, hashes: Iterable[FileHash]) -> Iterator[FileProblem]:
    hashes = list(hashes)
    try:
        got = hash_file_as(directory / path, {file_hash.algorithm for file_hash in hashes})
    except OSError as error:
        for file_hash in hashes:
            yield FileProblem(path, str(file_hash), f"an unreadable file: {error}")
        return
    for file_hash in hashes:
        value = got[file_hash.algorithm]
        if value != file_hash.value:
            yield FileProblem(path, str(file_hash), f"{file_hash.algorithm} {value}")


def _walk(top: Path) -> Iterator[tuple[str, str]]:
    """Every file below a directory, by relative path, and what it is instead where it is no file.

    Leaves out what `is_ignored` names.
    """
    inside = [""]
    while inside:
        directory = inside.pop()
        try:
            with os.scandir(top / directory) as entries:
                found = list(entries)
        except OSError as error:
            yield directory or ".", f"an unreadable directory: {error}"
            continue
        for entry in found:
            path = f"{directory}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                inside.append(f"{path}/")
            elif (instead := _unlike_a_file(entry)) or not is_ignored(path):
                yield path, instead


def _unlike_a_file(entry: os.DirEntry[str]) -> str:
    """What an entry is instead of a file; "" when it is one."""
    try:
        if entry.is_dir():
            return "a link to a directory"
        return "" if entry.is_file() else "something that is not a regular file"
    except OSError as error:
        return f"something that cannot be read: {error}"


def _digest_error(
    directory: Path, problems: Sequence[FileProblem], repository: str | None
) -> DigestError:
    lines = [
        f"{directory / p.path}: expected {p.expected}, got {p.got}." for p in problems[:_SHOWN]
    ]
    if len(problems) > _SHOWN:
        lines.append(f"... and {len(problems) - _SHOWN} more.")
    first = problems[0]
    return DigestError(
        "\n".join(lines),
        repository=repository or str(directory),
        files=tuple(dict.fromkeys(problem.path for problem in problems)),
        path=first.path,
        expected=first.expected,
        got=first.got,
    )
