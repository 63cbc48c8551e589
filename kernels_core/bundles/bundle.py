"""Bundles: kernels to carry to a machine that reaches no Hub.

A bundle is a cache, with plain files only: `KERNELS_CACHE` names it, and programs run unchanged.
Its records say what the Hub said, and of a commit they list the builds that are in the bundle; what
is loaded is held against them, as in any cache. With the manifest, a bundle as a whole can be
verified, and told by one digest.
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
    read_manifest,
)
from kernels_core.errors import BundleError, DigestError
from kernels_core.hub import records
from kernels_core.hub.cache import RepositoryCache
from kernels_core.hub.progress import Progress, progress_bar
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
    """Write a bundle, whole or not at all. From the same files comes the same bundle.

    Args:
        kernels: what `download_kernels` got; each repository and commit once.
        path: the archive or directory, by its name: `.tar`, `.tar.gz`, `.tgz`, `.zip` or another.
        endpoint: the address that programs on the other machine have for the Hub; by default the
            one that it has here. What one Hub said does not count for another.

    Raises:
        BundleError: there is something at the path.
        DigestError: a file has changed since it was verified.
        OSError: the bundle cannot be written.
    """
    with _whole_or_nothing(path) as new, tempfile.TemporaryDirectory() as folder:
        files = dict(sorted(_files(kernels, Path(folder), endpoint)))
        manifest = Manifest({name: _described(file) for name, file in files.items()})
        listing = Path(folder, MANIFEST)
        listing.write_bytes(manifest.content)
        read_manifest(manifest.content, path)  # nobody could read one with too many files
        size = manifest.size + len(manifest.content)
        with progress_bar(f"Writing {path.name}", size) as progress:
            # The manifest comes first: who unpacks must know what to expect.
            write_files(new, {MANIFEST: listing, **files}, progress)
    return manifest


@contextlib.contextmanager
def _whole_or_nothing(path: Path) -> Iterator[Path]:
    """Where to make a file or directory, which gets its place when it is whole."""
    if os.path.lexists(path):
        raise BundleError(f"{path} is there already; name another place.", path=path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name of the new one has the same ending, which says what kind of archive it is.
    with replacing(path) as new:
        yield new


def _files(
    kernels: Iterable[Downloaded], folder: Path, endpoint: str | None
) -> Iterator[tuple[str, Path]]:
    """The files of a bundle by their path in it."""
    for kernel in kernels:
        cache = kernel.repository.cache
        snapshot = cache.snapshot(kernel.commit)
        for build in kernel.builds.values():
            for name, file in build.files.items():
                if not integrity.is_ignored(name):
                    shown = snapshot / file.path
                    integrity.verify_file(shown, file.content_hash, repository=cache.repo_id)
                    yield shown.relative_to(cache.root).as_posix(), shown
        target = attrs.evolve(cache, root=folder, endpoint=endpoint or cache.endpoint)
        _write_records(kernel, target)
    for record in folder.rglob("*.json"):
        yield record.relative_to(folder).as_posix(), record


def _write_records(kernel: Downloaded, target: RepositoryCache) -> None:
    source = kernel.repository.cache
    listed = [file for build in kernel.builds.values() for file in build.files.values()]
    records.remember_tree(target, kernel.commit, tuple(listed))
    if refs := records.recall_refs(source):
        records.remember_refs(target, refs)
    publisher = publisher_of(source.repo_id)
    trusted = records.PublisherRecord(source).recall(publisher)
    if trusted is not None:
        records.PublisherRecord(target).remember(publisher, trusted)


def _described(file: Path) -> BundledFile:
    return BundledFile(file.stat().st_size, hash_file(file, "sha256"))


# Unpacking and verifying


def unpack_bundle(archive: Path, directory: Path, expected: str | None = None) -> Manifest:
    """Unpack a bundle, verified, whole or not at all.

    Args:
        archive: the bundle.
        directory: where to; must not be there yet.
        expected: its digest, when it is known from elsewhere.

    Raises:
        FileNotFoundError: there is no such archive.
        BundleError: it is damaged, is not what it says or what was expected, or there is something
            at the directory.
        OSError: the directory cannot be written.
    """
    with _whole_or_nothing(directory) as new:
        new.mkdir()
        return _unpack(archive, new, expected)


def _unpack(archive: Path, directory: Path, expected: str | None) -> Manifest:
    with reading(archive) as members:
        name, size, source = next(members, ("", 0, None))
        if name != MANIFEST or source is None:
            raise BundleError(f"{archive} is no bundle: {MANIFEST} is not its first.", path=archive)
        manifest = read_manifest(source.read(schema.MAX_BYTES + 1), archive)
        _check_digest(manifest, archive, expected)
        (directory / MANIFEST).write_bytes(manifest.content)
        missing = dict(manifest.files)
        with progress_bar(f"Unpacking {archive.name}", manifest.size) as progress:
            for name, size, source in members:
                listed = missing.pop(name, None)
                if listed is None or listed.size != size:
                    raise BundleError(
                        f"{archive} holds {name!r} ({size} bytes), and its manifest does not.",
                        path=archive,
                    )
                target = directory / name
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy(source, target, size)
                if hash_file(target, "sha256") != listed.sha256:
                    raise BundleError(f"{name!r} in {archive} is damaged.", path=archive)
                progress(size)
    if missing:
        raise BundleError(f"{archive} lacks {', '.join(list(missing)[:5])}.", path=archive)
    return manifest


def _copy(source: IO[bytes], target: Path, size: int) -> None:
    with target.open("xb") as file:
        # The archive may hold more than it says.
        while size > 0 and (chunk := source.read(min(size, _CHUNK))):
            file.write(chunk)
            size -= len(chunk)


def verify_bundle(directory: Path, expected: str | None = None) -> Manifest:
    """Verify every file of a bundle that is a directory.

    Args:
        directory: the bundle.
        expected: its digest, when it is known from elsewhere.

    Raises:
        BundleError: it is no bundle, or not what was expected, or a file is missing, differs, or is
            in a build without being listed.
    """
    try:
        manifest = read_manifest(schema.read_bytes(directory / MANIFEST), directory)
    except FileNotFoundError:
        raise BundleError(
            f"{directory} is no bundle: it has no {MANIFEST}.", path=directory
        ) from None
    except schema.InvalidError as error:
        raise BundleError(f"{MANIFEST} in {directory}: {error}", path=directory) from error
    _check_digest(manifest, directory, expected)
    try:
        with progress_bar(f"Verifying {directory.name}", manifest.size) as progress:
            _verify_files(manifest, directory, progress)
    except DigestError as error:
        raise BundleError(f"The bundle {directory} is damaged. {error}", path=directory) from error
    return manifest


def _verify_files(manifest: Manifest, directory: Path, progress: Progress) -> None:
    builds: dict[str, dict[str, FileHash]] = {}
    for name, file in manifest.files.items():
        file_hash = FileHash("sha256", file.sha256)
        if place := build_of(name):
            build, inside = place
            builds.setdefault(build, {})[inside] = file_hash
        else:
            integrity.verify_file(directory / name, file_hash)
            progress(file.size)
    for build, hashes in builds.items():
        # What lies in a build and is not listed could be imported.
        integrity.verify_tree(directory / build, hashes)
        progress(sum(manifest.files[f"{build}/{name}"].size for name in hashes))


def _check_digest(manifest: Manifest, bundle: Path, expected: str | None) -> None:
    if expected is not None and manifest.digest != expected.lower():
        raise BundleError(
            f"{bundle} has the digest {manifest.digest}, and {expected} was expected.", path=bundle
        )
