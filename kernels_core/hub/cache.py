"""Where the files of Hub repositories are in the cache, and the records that are kept beside them.

Files are where the Hub client keeps its own, so that programs share them: `blobs/` has each content
once, under its hash, and `snapshots/<commit>/` the files as links. What only this package needs is
beside them in `kernels-core/`: small JSON records. One that cannot be read is ignored.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from kernels_core import environment
from kernels_core.errors import CacheError, EnvironmentVariableError, KernelsError
from kernels_core.hub.answers import TreeFile
from kernels_core.repository import schema
from kernels_core.repository.atomic import replacing
from kernels_core.repository.paths import is_safe

logger = logging.getLogger("kernels_core")

CACHE_VARIABLE = "KERNELS_CACHE"
# Where the Hub client looks for the directory of its cache, in this order.
_HUB_VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")

OWN_FOLDER = "kernels-core"
_FORMAT = 1
# A process that holds a lock for longer hangs, or downloads over an unusable connection.
_LOCK_TIMEOUT = 900.0
_STALE = 3600.0
_MOMENT = 0.1
_INCOMPLETE = ".incomplete"


def cache_root() -> Path:
    """The directory of all repositories: `KERNELS_CACHE`, else the Hub client's cache.

    Raises an EnvironmentVariableError where it would be in a home directory that does not exist.
    """
    named = environment.path(CACHE_VARIABLE)
    if named is not None:
        return named.absolute()
    from huggingface_hub import constants

    found = Path(constants.HF_HUB_CACHE)
    if not found.is_absolute():
        _check_relative(found)
    return found


def _check_relative(cache: Path) -> None:
    """Allow a relative cache only if a variable says so, not where the client found no home."""
    decisive = next((name for name in _HUB_VARIABLES if name in os.environ), environment.HOME)
    if decisive == environment.HOME or os.environ[decisive][:1] in ("", "~", "$"):
        value = f"={os.environ[decisive]!r}" if decisive in os.environ else ", which is not set,"
        raise EnvironmentVariableError(
            f"{decisive}{value} gives the Hub client no directory for its cache: it would use "
            f"{str(cache)!r} in the working directory. Set {CACHE_VARIABLE} or {decisive} to an "
            f"absolute path.",
            variable=decisive,
        )


@attrs.frozen
class RepositoryCache:
    """One repository's part of the cache. Making one does no I/O; writing may raise a `CacheError`.

    Attributes:
        repo_id: the repository, "org/name".
        repository_type: "kernel" or "model".
        root: the directory of all repositories.
        endpoint: the Hub that records are about. Records about another Hub are ignored.
    """

    repo_id: str
    repository_type: str
    root: Path
    endpoint: str

    @property
    def path(self) -> Path:
        """The repository's folder, named as the Hub client names it."""
        return self.root / "--".join([f"{self.repository_type}s", *self.repo_id.split("/")])

    def snapshot(self, commit: str) -> Path:
        """The directory with the files of a commit."""
        return self.path / "snapshots" / commit

    def blob(self, file: TreeFile) -> Path:
        """The path of a file's content."""
        return self.path / "blobs" / (file.lfs_sha256 or file.oid)

    @property
    def is_known(self) -> bool:
        """Whether this package has used the repository before."""
        return (self.path / OWN_FOLDER).is_dir()

    @property
    def is_filled(self) -> bool:
        """Whether any program has downloaded something of the repository."""
        return (self.path / "snapshots").is_dir()

    # Files

    @contextlib.contextmanager
    def adding(self, file: TreeFile) -> Iterator[Path]:
        """Yield a path to write a file to, which then becomes the blob of the file."""
        blob = self.blob(file)
        self._make(blob.parent)
        _remove_stale(blob)
        with self.writing(), replacing(blob, prefix=blob.name, suffix=_INCOMPLETE) as new:
            yield new

    def link(self, file: TreeFile, commit: str) -> None:
        """Link a file's blob into the snapshot of a commit."""
        shown = self.snapshot(commit) / file.path
        self._make(shown.parent)
        # The name of the file may be as long as the file system allows.
        with self.writing(), replacing(shown, suffix=".link") as new:
            _link(self.blob(file), new)

    def remove(self, path: Path, file: TreeFile | None = None) -> None:
        """Remove a file or directory from a snapshot.

        With `file`, its blob is removed as well.
        """
        with self.writing():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            if file is not None:
                self.blob(file).unlink(missing_ok=True)

    # Records

    def recall(self, name: str) -> dict[str, Any] | None:
        """A record about this Hub; None when there is none that can be read."""
        record = self._read(name) or {}
        return record if record.get("endpoint") == self.endpoint else None

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self._record(name)
        try:
            record = schema.read_file(path, lambda value: schema.read_object(value, ""))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except schema.InvalidError as error:
            logger.info("Ignoring the record %s, which %s", path, error)
            return None
        return record if record.get("format") == _FORMAT else None

    def endpoint_of(self, name: str) -> str | None:
        """The Hub that a record is about; None when there is no record that can be read."""
        record = self._read(name) or {}
        endpoint = record.get("endpoint")
        return endpoint if isinstance(endpoint, str) else None

    def remember(self, name: str, record: dict[str, Any]) -> None:
        """Write a record. A cache that cannot be written is no error."""
        path = self._record(name)
        record = {"format": _FORMAT, "endpoint": self.endpoint, **record}
        try:
            # Tools of the Hub client treat a repository without snapshots as broken.
            (self.path / "snapshots").mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path, prefix=f".{path.name}", suffix="") as new:
                new.write_text(json.dumps(record), encoding="utf-8")
        except OSError as error:
            logger.info("Not writing the record %s: %s", path, error)

    def forget(self, name: str) -> None:
        """Drop a record."""
        with contextlib.suppress(OSError):
            self._record(name).unlink()

    def _record(self, name: str) -> Path:
        return self.path / OWN_FOLDER / f"{name}.json"

    def keep_ref(self, ref: str, commit: str) -> None:
        """Record the commit of a branch or tag, as the Hub client does.

        Its tools remove snapshots without such a record.
        """
        path = self.path / "refs" / ref
        try:
            if not is_safe(ref):
                raise OSError("no file may have this name")
            if not path.is_file() or path.read_text(encoding="utf-8") != commit:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(commit, encoding="utf-8")
        except OSError as error:
            logger.info("Not writing %s: %s", path, error)
            # There may be a branch `a` where this one is `a/b`, for example.
            if not ref.startswith(OWN_FOLDER):
                self.keep_commit(commit)

    def keep_commit(self, commit: str) -> None:
        """Record that a commit is used, whatever branches and tags there are.

        The Hub client's own tools remove snapshots without a name, such as locked ones.
        """
        self.keep_ref(f"{OWN_FOLDER}/{commit}", commit)

    # Between processes

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a lock among processes and threads. A process that is killed releases it."""
        from filelock import Timeout
        from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

        short = hashlib.sha256(name.encode()).hexdigest()[:16]
        path = self.root / ".locks" / self.path.name / f"kernels-core-{short}.lock"
        self._make(path.parent)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(WeakFileLock(path, timeout=_LOCK_TIMEOUT))
            except Timeout as error:
                raise CacheError(
                    f"Another process has held {path} for {_LOCK_TIMEOUT:.0f} s. If it hangs, end "
                    f"it.",
                    repository=self.repo_id,
                ) from error
            except OSError as error:
                raise self._unwritable(error) from error
            yield

    @contextlib.contextmanager
    def idle(self) -> Iterator[bool]:
        """Hold every lock, and yield True; or yield False if another process holds one."""
        from filelock import Timeout
        from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

        with contextlib.ExitStack() as stack:
            try:
                for path in (self.root / ".locks" / self.path.name).glob("kernels-core-*.lock"):
                    stack.enter_context(WeakFileLock(path, timeout=_MOMENT))
            except Timeout:
                is_idle = False
            except OSError as error:
                raise self._unwritable(error) from error
            else:
                is_idle = True
            yield is_idle

    def _make(self, directory: Path) -> None:
        with self.writing():
            directory.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turn an OSError of the block into a CacheError that names the cache."""
        try:
            yield
        except KernelsError:  # some are an OSError too
            raise
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> CacheError:
        advice = "Free some space" if error.errno == errno.ENOSPC else "Make it writable"
        if error.errno in (errno.EROFS, errno.EACCES):
            advice += ", set HF_HUB_OFFLINE=1 to load what is in it"
        return CacheError(
            f"{self.repo_id} cannot be written to the cache {self.root}: {error}. {advice}, or set "
            f"{CACHE_VARIABLE} to another directory.",
            repository=self.repo_id,
        )


def _link(blob: Path, shown: Path) -> None:
    """Make a blob available at another path, by a symbolic link if possible and enabled."""
    from huggingface_hub import constants

    if not constants.HF_HUB_DISABLE_SYMLINKS:
        with contextlib.suppress(OSError):
            shown.symlink_to(os.path.relpath(blob, shown.parent))
            return
    try:
        os.link(blob, shown)
    except OSError:
        shutil.copyfile(blob, shown)


def _remove_stale(blob: Path) -> None:
    """Remove what killed processes left of a download."""
    for left in blob.parent.glob(f"{blob.name}.*{_INCOMPLETE}"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE:
                left.unlink()
