"""Kernel repositories in a zip archive, such as those of packages that are imported from one.

torch and Python load native code from files only, so a repository is copied to the user's cache
once. The name of the copy is the hash of its content, and it is verified in each process.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import sys
import zipfile
import zlib
from pathlib import Path

from kernels_core import environment
from kernels_core.errors import DigestError, RepositoryNotFoundError
from kernels_core.repository.atomic import replacing
from kernels_core.repository.hashes import FileHash, tree_digest
from kernels_core.repository.integrity import is_ignored, verify_tree

_CHUNK = 1024 * 1024


def copy_of(path: Path) -> Path | None:
    """A copy on disk of a directory in a zip archive; None when the path is not in one.

    Raises a RepositoryNotFoundError when it cannot be read or copied.
    """
    archive = next((parent for parent in path.parents if parent.is_file()), None)
    if archive is None or not zipfile.is_zipfile(archive):
        return None
    status = archive.stat()
    arguments = path, archive, status.st_mtime_ns, status.st_size
    copy = _copy_of(*arguments)
    if copy is not None and not copy.is_dir():  # removed since, as caches are
        _copy_of.cache_clear()
        copy = _copy_of(*arguments)
    return copy


@functools.lru_cache(maxsize=64)
def _copy_of(path: Path, archive: Path, *_changes: int) -> Path | None:
    folder = f"{path.relative_to(archive).as_posix()}/"
    try:
        with zipfile.ZipFile(archive) as opened:
            members = {
                member.filename.removeprefix(folder): member
                for member in opened.infolist()
                if member.filename.startswith(folder)
                and not member.is_dir()
                and not is_ignored(member.filename)
            }
            if not members:
                return None
            hashes = {name: _hash(opened, member) for name, member in members.items()}
            digest = tree_digest(hashes).partition(":")[2]
            copy = _cache(path) / digest[:32] / path.name
            _make_private(copy.parent, path)
            if not _is_intact(copy, hashes):
                _write(opened, members, copy)
                verify_tree(copy, hashes, repository=str(path))
    except RepositoryNotFoundError:
        raise
    except (ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise _not_found(path, f"{archive} cannot be read: {error}") from error
    except OSError as error:
        raise _not_found(
            path,
            f"it is in a zip archive, and cannot be copied to {_cache(path)}: {error}. Make that "
            f"directory writable, set {_variable()} to another one, or run the program unpacked",
        ) from error
    return copy


def _hash(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> FileHash:
    digest = hashlib.sha256()
    with archive.open(member) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return FileHash("sha256", digest.hexdigest())


def _is_intact(copy: Path, hashes: dict[str, FileHash]) -> bool:
    if not copy.exists():
        return False
    try:
        verify_tree(copy, hashes)
    except DigestError:
        shutil.rmtree(copy)
        return False
    return True


def _write(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], copy: Path) -> None:
    # Another process may write the same at the same time: then its copy is verified and used.
    with contextlib.ExitStack() as stack:
        try:
            new = stack.enter_context(replacing(copy))
            for name, member in members.items():
                target = new / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("xb") as file:
                    shutil.copyfileobj(source, file, _CHUNK)
            stack.close()
        except OSError:
            if not copy.is_dir():
                raise


def _variable() -> str:
    return "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"


def _cache(path: Path) -> Path:
    """The directory of all copies."""
    base = environment.path(_variable())
    if base is None or not base.is_absolute():
        home = environment.home()
        if home is None:
            raise _not_found(
                path,
                f"it is in a zip archive, and there is no home directory to copy it to. Set "
                f"{_variable()} to a directory",
            )
        base = home / ".cache"
    return base / "kernels-core" / "unpacked"


def _make_private(directory: Path, path: Path) -> None:
    """Make a directory that others cannot write to, whose files they could exchange."""
    directory.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":  # the user's profile is private
        return
    for one in (directory.parent, directory):
        status = one.lstat()
        if status.st_uid != os.geteuid() or one.is_symlink():
            raise _not_found(
                path,
                f"kernels in a zip archive are copied to {one}, which belongs to another user or "
                f"is a link. Remove it, or set {_variable()} to a directory of your own",
            )
        if status.st_mode & 0o077:
            one.chmod(0o700)


def _not_found(path: Path, why: str) -> RepositoryNotFoundError:
    return RepositoryNotFoundError(
        f"The kernel repository {path} cannot be used: {why}.", repository=str(path)
    )
