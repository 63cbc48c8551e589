"""Archives: those that are read are untrusted input, and equal files are written as equal ones."""

from __future__ import annotations

import contextlib
import gzip
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Protocol

import attrs

from kernels_core.errors import BundleError

_ZIP, _TAR, _TAR_GZ = (".zip",), (".tar",), (".tar.gz", ".tgz")


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


_Add = Callable[[str, _Readable, int], None]


@attrs.frozen
class _Counted:
    """A file that tells how much of it was read."""

    source: IO[bytes]
    progress: Callable[[int], object]

    def read(self, size: int = -1, /) -> bytes:
        chunk = self.source.read(size)
        self.progress(len(chunk))
        return chunk


def is_archive(path: Path) -> bool:
    """Whether a path is an archive, judged by its name; otherwise it is a directory."""
    return path.name.lower().endswith((*_ZIP, *_TAR, *_TAR_GZ))


def write_files(path: Path, files: Mapping[str, Path], progress: Callable[[int], object]) -> None:
    """Write files, by their path inside, to an archive or directory; its name says which.

    `progress` is called with the number of bytes as they are written.
    """
    with _writer(path) as add:
        for name, file in files.items():
            size = file.stat().st_size
            with file.open("rb") as source:
                add(name, _Counted(source, progress), size)


@contextlib.contextmanager
def _writer(path: Path) -> Iterator[_Add]:
    name = path.name.lower()
    with contextlib.ExitStack() as stack:
        if name.endswith(_ZIP):
            archive = stack.enter_context(zipfile.ZipFile(path, "w"))
            yield lambda *file: _add_to_zip(archive, *file)
        elif name.endswith(_TAR):
            tar = stack.enter_context(tarfile.open(path, "w"))
            yield lambda *file: _add_to_tar(tar, *file)
        elif name.endswith(_TAR_GZ):
            raw = stack.enter_context(path.open("wb"))
            # A name and a time in the header would make equal content different archives.
            packed = stack.enter_context(gzip.GzipFile("", "wb", 6, raw, mtime=0))
            tar = stack.enter_context(tarfile.open(fileobj=packed, mode="w|"))
            yield lambda *file: _add_to_tar(tar, *file)
        else:
            yield lambda *file: _add_to_directory(path, *file)


def _add_to_zip(archive: zipfile.ZipFile, name: str, source: _Readable, size: int) -> None:
    about = zipfile.ZipInfo(name)  # dated 1980
    about.compress_type = zipfile.ZIP_DEFLATED
    about.external_attr = 0o644 << 16
    about.file_size = size
    with archive.open(about, "w") as target:
        shutil.copyfileobj(source, target)


def _add_to_tar(archive: tarfile.TarFile, name: str, source: _Readable, size: int) -> None:
    about = tarfile.TarInfo(name)  # dated 1970, without an owner
    about.size = size
    archive.addfile(about, source)


def _add_to_directory(root: Path, name: str, source: _Readable, size: int) -> None:
    target = root / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        shutil.copyfileobj(source, file)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Iterator[tuple[str, int, IO[bytes]]]]:
    """Iterate over the files of an archive: path inside, size, and what to read from.

    Nothing is unpacked, and names and sizes may be wrong. Raises a BundleError, also while files
    are read, for what is not an archive, is damaged, or contains something else than files.
    """
    try:
        with contextlib.ExitStack() as stack:
            if path.name.lower().endswith(_ZIP):
                yield _members_of_zip(stack.enter_context(zipfile.ZipFile(path)))
            else:
                yield _members_of_tar(stack.enter_context(tarfile.open(path, "r|*")), path)
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
    ) as error:
        raise BundleError(f"{path} is damaged or not an archive: {error}", path=path) from error


def _members_of_zip(archive: zipfile.ZipFile) -> Iterator[tuple[str, int, IO[bytes]]]:
    for about in archive.infolist():
        if not about.is_dir():
            with archive.open(about) as source:
                yield about.filename, about.file_size, source


def _members_of_tar(archive: tarfile.TarFile, path: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    for about in archive:
        if about.isdir():
            continue
        source = archive.extractfile(about) if about.isreg() else None
        if source is None:
            raise BundleError(
                f"{path} contains {about.name!r}, which is not a regular file.", path=path
            )
        with source:
            yield about.name, about.size, source
