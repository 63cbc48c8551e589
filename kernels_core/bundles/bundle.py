"""Bundles: kernels for a machine that cannot reach the Hub.

A bundle is a cache with regular files only: `KERNELS_CACHE` names it, and programs run unchanged.
Its records contain the Hub's answers, and of each commit the builds that are in the bundle; builds
are compared with them when they are loaded, as in any cache. The manifest makes it possible to
verify the whole bundle, and to identify it by one digest.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import attrs

from kernels_core.bundles.archives import reading, write_files
from kernels_core.bundles.manifest import (
    MANIFEST,
    BundledFile,
    Manifest,
    build_of,
    may_change,
    read_manifest,
)
from kernels_core.errors import BundleError, DigestError
from kernels_core.hub import records
from kernels_core.hub.cache import RepositoryCache
from kernels_core.hub.progress import Progress, progress_bar
from kernels_core.hub.versions import Refs
from kernels_core.loading.download import Downloaded
from kernels_core.repository import integrity, schema
from kernels_core.repository.atomic import replacing
from kernels_core.repository.hashes import FileHash, hash_file
from kernels_core.repository.names import publisher_of

_CHUNK = 1024 * 1024


# Writing


def write_bundle(
    kernels: Sequence[Downloaded], path: Path, endpoint: str | None = None
) -> Manifest:
    """Write a bundle, completely or not at all. Equal files give an equal bundle.

    The name of the path says which archive it is, or that it is a directory. `endpoint` is the
    address of the Hub on the other machine, by default that on this one: answers of one Hub are not
    used for another. Raises a BundleError when the path exists, and a DigestError when a file has
    changed since it was verified.
    """
    with _whole_or_nothing(path) as new, tempfile.TemporaryDirectory() as folder:
        # Every file is hashed as the Hub does, and for the manifest.
        hashed = 2 * sum(kernel.size for kernel in kernels)
        with progress_bar("Verifying", path.name, hashed) as progress:
            files = dict(sorted(_files(kernels, Path(folder), endpoint, progress)))
            manifest = Manifest({name: _described(file, progress) for name, file in files.items()})
        listing = Path(folder, MANIFEST)
        listing.write_bytes(manifest.content)
        read_manifest(manifest.content, path)  # refuses one with too many files
        size = manifest.size + len(manifest.content)
        with progress_bar("Writing", path.name, size) as progress:
            # The manifest comes first, because unpacking verifies each file as it is read.
            write_files(new, {MANIFEST: listing, **files}, progress)
    return manifest


@contextlib.contextmanager
def _whole_or_nothing(path: Path) -> Iterator[Path]:
    """A path for the new file or directory, which is moved to its place when it is complete."""
    if os.path.lexists(path):
        raise BundleError(f"{path} already exists; choose another path.", path=path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name of the new one has the same ending, which says what kind of archive it is.
    with replacing(path) as new:
        yield new


def _files(
    kernels: Iterable[Downloaded], folder: Path, endpoint: str | None, progress: Progress
) -> Iterator[tuple[str, Path]]:
    """The files of a bundle by their path in it."""
    kernels = list(kernels)
    refs = _refs(kernels)
    for kernel in kernels:
        cache = kernel.repository.cache
        snapshot = cache.snapshot(kernel.commit)
        for build in kernel.builds.values():
            for name, file in build.files.items():
                if not integrity.is_ignored(name):
                    shown = snapshot / file.path
                    integrity.verify_file(shown, file.content_hash, repository=cache.repo_id)
                    progress(file.size)
                    yield shown.relative_to(cache.root).as_posix(), shown
        target = attrs.evolve(cache, root=folder, endpoint=endpoint or cache.endpoint)
        _write_records(kernel, target, refs[kernel.repository.repo_id])
    for record in folder.rglob("*"):
        if record.is_file():
            yield record.relative_to(folder).as_posix(), record


def _refs(kernels: Iterable[Downloaded]) -> dict[str, Refs]:
    """By repository: the branches and tags at the commits in the bundle, and no others.

    Others could be chosen instead, and are not there.
    """
    commits: dict[str, set[str]] = {}
    for kernel in kernels:
        commits.setdefault(kernel.repository.repo_id, set()).add(kernel.commit)
    refs: dict[str, Refs] = {}
    for kernel in kernels:
        repo_id = kernel.repository.repo_id
        locked = Refs.of_names(dict.fromkeys(kernel.names, kernel.commit))
        if repo_id not in refs:
            recorded = records.recall_refs(kernel.repository.cache) or Refs({}, {})
            refs[repo_id] = recorded.only(commits[repo_id].__contains__)
        refs[repo_id] |= locked
    return refs


def _write_records(kernel: Downloaded, target: RepositoryCache, refs: Refs) -> None:
    source = kernel.repository.cache
    listed = [file for build in kernel.builds.values() for file in build.files.values()]
    records.remember_tree(target, kernel.commit, tuple(listed))
    target.keep_commit(kernel.commit)
    if refs != Refs({}, {}):
        records.remember_refs(target, refs)
    publisher = publisher_of(source.repo_id)
    trusted = records.PublisherRecord(source).recall(publisher)
    if trusted is not None:
        records.PublisherRecord(target).remember(publisher, trusted)


def _described(file: Path, progress: Progress) -> BundledFile:
    described = BundledFile(file.stat().st_size, hash_file(file, "sha256"))
    progress(described.size)
    return described


# Unpacking and verifying


def unpack_bundle(archive: Path, directory: Path, expected: str | None = None) -> Manifest:
    """Verify a bundle and unpack it to a new directory, completely or not at all.

    Raises a BundleError when it is damaged, has a digest other than the expected one, or when the
    directory exists.
    """
    with _whole_or_nothing(directory) as new:
        new.mkdir()
        return _unpack(archive, new, expected)


def unpack_if_missing(archive: Path, directory: Path, expected: str | None = None) -> Manifest:
    """As `unpack_bundle`, unless the directory has this very bundle, which is then verified.

    Several processes may do this at the same time, and programs may have used the directory since.
    """
    if not os.path.lexists(directory):
        try:
            return unpack_bundle(archive, directory, expected)
        except (OSError, BundleError):
            # Another process may have been faster.
            if not os.path.lexists(directory):
                raise
    wanted = _manifest_of(archive, expected)
    return verify_bundle(directory, wanted.digest, is_used=True)


def _manifest_of(archive: Path, expected: str | None) -> Manifest:
    """The manifest of an archive, which comes first in it; nothing else is read."""
    with reading(archive) as members:
        return _read_first(members, archive, expected)


def _read_first(
    members: Iterator[tuple[str, int, IO[bytes]]], archive: Path, expected: str | None
) -> Manifest:
    name, _, source = next(members, ("", 0, None))
    if name != MANIFEST or source is None:
        raise BundleError(
            f"{archive} is not a bundle: its first file is not {MANIFEST}.", path=archive
        )
    manifest = read_manifest(source.read(schema.MAX_BYTES + 1), archive)
    _check_digest(manifest, archive, expected)
    return manifest


def _unpack(archive: Path, directory: Path, expected: str | None) -> Manifest:
    with reading(archive) as members:
        manifest = _read_first(members, archive, expected)
        (directory / MANIFEST).write_bytes(manifest.content)
        missing = dict(manifest.files)
        with progress_bar("Unpacking", archive.name, manifest.size) as progress:
            for name, size, source in members:
                listed = missing.pop(name, None)
                if listed is None or listed.size != size:
                    raise BundleError(
                        f"{archive} contains {name!r} ({size} bytes), which its manifest does not "
                        f"list.",
                        path=archive,
                    )
                target = directory / name
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy(source, target, size, progress)
                if hash_file(target, "sha256") != listed.sha256:
                    raise BundleError(
                        f"{name!r} in {archive} is damaged: its hash is not that in the manifest.",
                        path=archive,
                    )
    if missing:
        some = ", ".join(list(missing)[:5])
        raise BundleError(
            f"{archive} is incomplete: of the files in its manifest, it lacks {some}"
            f"{' and others' if len(missing) > 5 else ''}.",
            path=archive,
        )
    return manifest


def _copy(source: IO[bytes], target: Path, size: int, progress: Progress) -> None:
    with target.open("xb") as file:
        # The archive may contain more than it says.
        while size > 0 and (chunk := source.read(min(size, _CHUNK))):
            file.write(chunk)
            size -= len(chunk)
            progress(len(chunk))


def verify_bundle(
    directory: Path, expected: str | None = None, *, is_used: bool = False
) -> Manifest:
    """Verify every file of a bundle that is a directory.

    If it is used as a cache, programs may have recorded newer answers of the Hub about branches.
    Raises a BundleError when it is not a bundle, has a digest other than the expected one, or when
    a file is missing, differs, or is in a build without being listed.
    """
    try:
        manifest = read_manifest(schema.read_bytes(directory / MANIFEST), directory)
    except FileNotFoundError:
        raise BundleError(
            f"{directory} is not a bundle: it contains no {MANIFEST}.", path=directory
        ) from None
    except schema.InvalidError as error:
        raise BundleError(f"{MANIFEST} in {directory}: {error}", path=directory) from error
    _check_digest(manifest, directory, expected)
    try:
        with progress_bar("Verifying", directory.name, manifest.size) as progress:
            _verify_files(manifest, directory, is_used, progress)
    except DigestError as error:
        raise BundleError(f"The bundle {directory} is damaged. {error}", path=directory) from error
    return manifest


def _verify_files(manifest: Manifest, directory: Path, is_used: bool, progress: Progress) -> None:
    builds: dict[str, dict[str, FileHash]] = {}
    for name, file in manifest.files.items():
        file_hash = FileHash("sha256", file.sha256)
        if place := build_of(name):
            build, inside = place
            builds.setdefault(build, {})[inside] = file_hash
        elif not (is_used and may_change(name)):
            integrity.verify_file(directory / name, file_hash)
            progress(file.size)
    for build, hashes in builds.items():
        # A file in a build that is not listed could be imported.
        integrity.verify_tree(directory / build, hashes)
        progress(sum(manifest.files[f"{build}/{name}"].size for name in hashes))


def _check_digest(manifest: Manifest, bundle: Path, expected: str | None) -> None:
    if expected is not None and manifest.digest != expected.lower():
        raise BundleError(
            f"{bundle} has the digest {manifest.digest}, but {expected} was expected.", path=bundle
        )
