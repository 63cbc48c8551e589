"""What is checked: the files and builds of a repository on disk.

Links are not followed, nothing is imported, and only `metadata.json`, which has a size limit, is
read whole. The exception is the Hub client's cache, which is made of links: there, a link to the
content that the cache has for a file is treated as the file.
"""

from __future__ import annotations

import enum
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

from kernels_core.check.facts.build_names import is_selected, read_name
from kernels_core.errors import CheckError, MetadataError, VariantNameError
from kernels_core.hub.client import REPOSITORY_TYPES
from kernels_core.repository.integrity import FileProblem, file_problems
from kernels_core.repository.metadata import Metadata, read_metadata
from kernels_core.variants.names import Variant

NATIVE_SUFFIXES = (".so", ".dylib", ".pyd", ".dll")
"""Loaders treat files with these suffixes as native code, whatever their content."""

# A repository of a hundred builds has a few thousand entries.
_MAX_ENTRIES = 200_000


class Kind(enum.Enum):
    """What a path is."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    OTHER = "neither file nor directory"


@attrs.frozen
class Entry:
    """A file or directory of a repository.

    Attributes:
        path: relative to the repository, with `/`.
        kind: what it is; links are not followed.
        size: bytes of a file.
        target: the target of a link.
    """

    path: str
    kind: Kind
    size: int = 0
    target: str | None = None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


@attrs.frozen
class HubFacts:
    """Where on the Hub a repository comes from.

    Attributes:
        repo_id: "org/name".
        revision: the branch, tag or commit that was requested.
        commit: the commit that it refers to.
        repo_type: "kernel" or "model".
    """

    repo_id: str
    revision: str
    commit: str
    repo_type: str


@attrs.frozen
class Build:
    """One directory under `build/`.

    Attributes:
        name: its name.
        path: relative to the repository, such as "build/torch-cpu".
        directory: its path on disk.
        variant: the parsed name; None when it is not a variant name.
        invalid_name: why it is not.
        entries: everything in it, sorted by path; paths are relative to the repository.
        metadata: its `metadata.json`; None when it is missing or malformed.
        invalid_metadata: why the `metadata.json` cannot be used.
        hub: where the repository comes from, if it comes from the Hub.
    """

    name: str
    path: str
    directory: Path
    variant: Variant | None
    invalid_name: str
    entries: tuple[Entry, ...]
    metadata: Metadata | None
    invalid_metadata: MetadataError | None
    hub: HubFacts | None = None

    def inner(self, entry: Entry) -> str:
        """The path of an entry relative to the build's directory."""
        return entry.path[len(self.path) + 1 :]

    def files(self) -> Iterator[Entry]:
        """The regular files."""
        return (entry for entry in self.entries if entry.kind is Kind.FILE)

    @property
    def packages(self) -> tuple[str, ...]:
        """The directories with an `__init__.py`, at most one level deep; "" is the build's own."""
        found = (self.inner(entry).rpartition("/") for entry in self.files())
        return tuple(top for top, _, name in found if name == "__init__.py" and "/" not in top)

    @property
    def has_native_code(self) -> bool:
        """Whether a file is named like a library."""
        return any(entry.name.endswith(NATIVE_SUFFIXES) for entry in self.files())

    def digest_problems(self) -> tuple[FileProblem, ...]:
        """Files that differ from the digest in the metadata. Reads and hashes every file."""
        if self.metadata is None or self.metadata.digest is None:
            return ()
        return file_problems(self.directory, None, self.metadata)


@attrs.frozen
class Repository:
    """A kernel repository on disk.

    Attributes:
        root: the directory that contains `build`.
        subject: what to call it: the path that was given, or "org/name" at a commit.
        name: the name that old packages have, with `-`.
        entries: everything outside builds, except `build` itself.
        builds: the builds to check, sorted by name.
        all_variants: the names of all directories under `build/`, also of builds that were not
            requested.
        hub: where it comes from, if it comes from the Hub.
        unwritable: paths of files on the Hub that cannot be written here, each with the reason.
    """

    root: Path
    subject: str
    name: str
    entries: tuple[Entry, ...]
    builds: tuple[Build, ...]
    all_variants: tuple[str, ...]
    hub: HubFacts | None = None
    unwritable: tuple[tuple[str, str], ...] = ()


def read_repository(
    path: Path,
    *,
    variants: tuple[str, ...] = (),
    subject: str | None = None,
    hub: HubFacts | None = None,
    unwritable: tuple[tuple[str, str], ...] = (),
) -> Repository:
    """Read what a repository at a path consists of; the path may be that of one of its builds.

    Raises `CheckError` where there is no repository or matching build, or it cannot be read.
    """
    root, only = _locate(Path(os.path.abspath(path)))
    hub = hub or _cached_from(root)
    try:
        top = tuple(_scan(root / "build", "build", deep=False))
        names = tuple(entry.name for entry in top if entry.kind is Kind.DIRECTORY)
        selected = _selected(path, names if only is None else {only} & set(names), variants)
        entries = (*_not_directories(top), *_beside_build(root))
        blobs = _blobs(root)
        builds = tuple(_read_build(root, name, hub, blobs) for name in selected)
    except OSError as error:
        raise CheckError(f"{path} cannot be read: {error}", path=path) from error
    name = hub.repo_id.rpartition("/")[2] if hub else root.name
    return Repository(root, subject or str(path), name, entries, builds, names, hub, unwritable)


def _locate(path: Path) -> tuple[Path, str | None]:
    """The directory that contains `build`, and the only variant to check if the path names one."""
    if (path / "build").is_dir():
        return path, None
    if path.name == "build" and path.is_dir():
        return path.parent, None
    if path.parent.name == "build" and path.is_dir():
        return path.parent.parent, path.name
    raise CheckError(
        f"{path} is not a kernel repository: it has no directory 'build' with one directory per "
        f"variant, such as 'build/torch-cpu'.",
        path=path,
    )


def _selected(
    path: str | os.PathLike[str], names: Iterable[str], variants: tuple[str, ...]
) -> tuple[str, ...]:
    selected = tuple(name for name in names if is_selected(name, variants))
    if variants and not selected:
        raise CheckError(
            f"No variant in {path} matches {' or '.join(variants)}; "
            f"it has {', '.join(names) or 'none'}.",
            path=path,
        )
    return selected


def _not_directories(entries: Iterable[Entry]) -> Iterator[Entry]:
    return (entry for entry in entries if entry.kind is not Kind.DIRECTORY)


def _beside_build(root: Path) -> Iterator[Entry]:
    """Sources, tests and other files that are never loaded."""
    return (entry for entry in _scan(root, "", deep=False) if entry.path != "build")


def _blobs(root: Path) -> Path | None:
    """The directory of file contents, if the repository is in the Hub client's cache."""
    blobs = root.parent.parent / "blobs"
    return blobs if root.parent.name == "snapshots" and blobs.is_dir() else None


def _cached_from(root: Path) -> HubFacts | None:
    kind, *repo_id = root.parent.parent.name.split("--")
    if _blobs(root) is None or kind[:-1] not in REPOSITORY_TYPES or len(repo_id) != 2:
        return None
    return HubFacts("/".join(repo_id), root.name, root.name, kind[:-1])


def _read_build(root: Path, name: str, hub: HubFacts | None, blobs: Path | None) -> Build:
    path = f"build/{name}"
    found = _scan(root / path, path, deep=True, blobs=blobs)
    entries = tuple(sorted(found, key=lambda entry: entry.path))
    variant, invalid_name = None, ""
    try:
        variant = read_name(name)
    except VariantNameError as error:
        invalid_name = str(error)
    metadata, invalid_metadata = None, None
    if any(entry.path == f"{path}/metadata.json" and entry.kind is Kind.FILE for entry in entries):
        try:
            metadata = read_metadata(root / path / "metadata.json")
        except MetadataError as error:
            invalid_metadata = error
    return Build(
        name, path, root / path, variant, invalid_name, entries, metadata, invalid_metadata, hub
    )


def _scan(
    directory: Path, prefix: str, *, deep: bool, blobs: Path | None = None
) -> Iterator[Entry]:
    waiting = [(directory, prefix)]
    count = 0
    while waiting:
        directory, prefix = waiting.pop()
        with os.scandir(directory) as found:
            inside = sorted(found, key=lambda each: each.name)
        for each in inside:
            count += 1
            if count > _MAX_ENTRIES:
                raise CheckError(
                    f"{directory} contains more than {_MAX_ENTRIES} files.", path=directory
                )
            path = f"{prefix}/{each.name}" if prefix else each.name
            entry = _entry(each, path, blobs)
            yield entry
            if deep and entry.kind is Kind.DIRECTORY:
                waiting.append((directory / each.name, path))


def _entry(found: os.DirEntry[str], path: str, blobs: Path | None) -> Entry:
    mode = found.stat(follow_symlinks=False)
    if stat.S_ISLNK(mode.st_mode):
        target = os.readlink(found.path)
        blob = Path(os.path.normpath(os.path.join(os.path.dirname(found.path), target)))
        if blob.parent != blobs or blob.is_symlink() or not blob.is_file():
            return Entry(path, Kind.LINK, target=target)
        mode = os.lstat(blob)
    if stat.S_ISDIR(mode.st_mode):
        return Entry(path, Kind.DIRECTORY)
    if stat.S_ISREG(mode.st_mode):
        return Entry(path, Kind.FILE, size=mode.st_size)
    return Entry(path, Kind.OTHER)
