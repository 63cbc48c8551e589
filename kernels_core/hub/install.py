"""Installing one build of a commit in the cache: downloaded once, verified, with a receipt.

A build is installed when every file in its directory was hashed and matches the list of the commit.
The receipt records that: it has each file's size, times and inode as they were before hashing, and
while they are the same nothing is hashed again. This detects that a file was written, replaced,
added or removed. It does not detect corruption by the disk itself, or somebody who can write to the
cache and forges the receipt, too.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import attrs

from kernels_core.errors import DigestError, HubAnswerError, HubOfflineError, MetadataError
from kernels_core.hub.answers import BUILD_FOLDER, TreeFile
from kernels_core.hub.cache import RepositoryCache
from kernels_core.hub.client import HubClient
from kernels_core.hub.progress import Progress, progress_bar
from kernels_core.hub.single_flight import SingleFlight
from kernels_core.parallel import in_parallel
from kernels_core.repository import integrity, paths, schema
from kernels_core.repository.hashes import FileHash, hash_file, tree_digest
from kernels_core.repository.metadata import Metadata, read_metadata

T = TypeVar("T")

logger = logging.getLogger("kernels_core")

METADATA_FILE = "metadata.json"

_ATTEMPTS = 2
_installed = SingleFlight()

_Fingerprint = dict[str, list[int]]


@attrs.frozen
class HubBuild:
    """A build as a commit lists it.

    Attributes:
        variant: name of the variant.
        files: its files by their path relative to the variant directory.
    """

    variant: str
    files: Mapping[str, TreeFile] = attrs.field(eq=False)

    @property
    def hashes(self) -> dict[str, FileHash]:
        """The hash of each file, by its path relative to the variant directory."""
        return {path: file.content_hash for path, file in self.files.items()}

    @property
    def digest(self) -> str:
        """The digest of all its files, for trust lists."""
        return tree_digest(self.hashes)


@attrs.frozen
class Installer:
    """Installs builds of one commit.

    Attributes:
        cache: the destination.
        commit: the commit.
        client: the client to download with; None to download nothing.
        agent: added to the user agent of requests.
    """

    cache: RepositoryCache
    commit: str
    client: HubClient | None
    agent: str = ""

    def path(self, build: HubBuild) -> Path:
        """The directory of a build, whether it exists or not."""
        return self.cache.snapshot(self.commit) / BUILD_FOLDER / build.variant

    def has(self, build: HubBuild) -> bool:
        """Whether a build is installed, verified, and unchanged since."""
        return self._receipt_holds(build, build.digest)

    def verify(self, build: HubBuild) -> None:
        """Hash the files of a build; a DigestError or MetadataError if they are not as published.

        Metadata that was downloaded to describe a build, without the build, is verified alone.
        """
        described = build.files.get(METADATA_FILE)
        if described is not None and self._missing(build) == [
            file for file in build.files.values() if file is not described
        ]:
            build = HubBuild(build.variant, {METADATA_FILE: described})
        self._verify(build, build.digest)

    def install(self, build: HubBuild) -> Path:
        """Install a build, unless it is installed already, and return its directory.

        Any number of threads and processes may install one build at the same time: it is downloaded
        once. A process that is killed leaves nothing that another treats as complete. Raises a
        DigestError if files differ from what was published even after a second download.
        """
        path = self.path(build)
        expected = build.digest

        def install() -> None:
            if self._receipt_holds(build, expected) or self._is_complete(build, expected):
                return
            self._check_plausible(build)
            with self._lock(build):
                # Another process may have been faster.
                if not self._receipt_holds(build, expected):
                    self._get(build, lambda: self._verify(build, expected))

        _installed.get((str(path), expected), install)
        return path

    def _is_complete(self, build: HubBuild, expected: str) -> bool:
        """Verify files that have no receipt, as in a cache that was copied."""
        if self._missing(build):
            return False
        try:
            self._verify(build, expected)
        except DigestError:
            return False
        return True

    def metadata(self, build: HubBuild) -> Metadata | None:
        """The metadata of a build; nothing else of it is downloaded."""
        described = build.files.get(METADATA_FILE)
        if described is None:
            return None
        part = HubBuild(build.variant, {METADATA_FILE: described})
        path = self.path(build) / METADATA_FILE
        expected = described.content_hash

        def read() -> Metadata | None:
            integrity.verify_file(path, expected, repository=self.cache.repo_id)
            return read_metadata(path, repository=self.cache.repo_id)

        def fetch() -> Metadata | None:
            with contextlib.suppress(DigestError):
                return read()
            self._check_plausible(build)
            with self._lock(build):
                return self._get(part, read)

        return _installed.get((str(path), str(expected)), fetch)

    def _get(self, build: HubBuild, verify: Callable[[], T]) -> T:
        """Download files that are missing, or differ from what was published, and verify all."""
        self._download(build)
        try:
            return verify()
        except DigestError as error:
            logger.warning("Removing files that differ from what was published. %s", error)
            self._remove(build, error)
        self._download(build)
        try:
            return verify()
        except DigestError as error:
            self._remove(build, error)
            raise

    def _lock(self, build: HubBuild) -> contextlib.AbstractContextManager[None]:
        return self.cache.lock(f"{self.commit} {build.variant}")

    def _verify(self, build: HubBuild, expected: str) -> None:
        path = self.path(build)
        repository = self.cache.repo_id
        before = _fingerprint(path)
        described = build.files.get(METADATA_FILE)
        metadata = None
        if described is not None:
            integrity.verify_file(
                path / METADATA_FILE, described.content_hash, repository=repository
            )
            metadata = read_metadata(path / METADATA_FILE, repository=repository)
        integrity.verify_build(path, build.hashes, metadata, repository=repository)
        self.cache.remember(self._receipt(build), {"digest": expected, "files": before})

    def _remove(self, build: HubBuild, error: DigestError) -> None:
        for name in error.files:
            # A digest may list paths that lead out of the directory.
            if paths.is_safe(name):
                self.cache.remove(self.path(build) / name, build.files.get(name))

    def _receipt(self, build: HubBuild) -> str:
        return f"builds/{self.commit}/{build.variant}"

    def _receipt_holds(self, build: HubBuild, expected: str) -> bool:
        receipt = self.cache.recall(self._receipt(build))
        if receipt is None or receipt.get("digest") != expected:
            return False
        return receipt.get("files") == _fingerprint(self.path(build))

    # Downloading

    def _missing(self, build: HubBuild) -> list[TreeFile]:
        """The files that do not exist. Those that exist may still be wrong."""
        path = self.path(build)
        return [
            file
            for name, file in build.files.items()
            if not integrity.is_ignored(name) and not _has_size(path / name, file.size)
        ]

    def _download(self, build: HubBuild) -> None:
        missing = self._missing(build)
        # Other builds, and other files of this one, may have the same content.
        absent = {
            blob: file
            for file in missing
            if not _has_size(blob := self.cache.blob(file), file.size)
        }
        if absent:
            self._download_all(build, list(absent.values()))
        for file in missing:
            self.cache.link(file, self.commit)

    def _download_all(self, build: HubBuild, files: list[TreeFile]) -> None:
        client = self.client
        if client is None:
            count = "1 file" if len(files) == 1 else f"{len(files)} files"
            raise HubOfflineError(
                f"The cache {self.cache.root} lacks {count} of {self.cache.repo_id} "
                f"({build.variant}), and downloads are off (HF_HUB_OFFLINE or local_files_only).",
                repository=self.cache.repo_id,
                request=f"download of {files[0].path}",
            )
        size = sum(file.size for file in files)
        with progress_bar("Downloading", self.cache.repo_id, size) as progress:
            in_parallel(lambda file: self._download_file(client, file, progress), files)

    def _download_file(self, client: HubClient, file: TreeFile, progress: Progress) -> None:
        """Download a file. Only what was published becomes part of the cache."""
        with self.cache.adding(file) as new:
            download_file(
                client,
                self.cache.repo_id,
                self.commit,
                file,
                new,
                agent=self.agent,
                progress=progress,
            )

    def _check_plausible(self, build: HubBuild) -> None:
        """Check names and sizes before anything is downloaded."""
        repo_id = self.cache.repo_id
        described = build.files.get(METADATA_FILE)
        if described is not None and described.size > schema.MAX_BYTES:
            raise MetadataError(
                f"{described.path} of {repo_id} has {described.size} bytes, more than the "
                f"{schema.MAX_BYTES} allowed; nothing was downloaded.",
                repository=repo_id,
                path=Path(described.path),
                key="",
            )
        if collision := paths.first_collision(build.files):
            raise HubAnswerError(
                f"{repo_id} ({build.variant}) has files whose names are the same on some file "
                f"systems: {' and '.join(map(repr, collision))}; nothing was downloaded.",
                repository=repo_id,
                request=f"download of {build.variant}",
            )


def forget() -> None:
    """Verify each build again, as a new process does."""
    _installed.clear()


def download_file(
    client: HubClient,
    repo_id: str,
    commit: str,
    file: TreeFile,
    path: Path,
    *,
    agent: str = "",
    progress: Progress = lambda count: None,
) -> None:
    """Download a file to a path, and verify it.

    If its hash is wrong, it is downloaded once more; after that a DigestError is raised.
    """
    expected = file.content_hash
    got: list[FileHash] = []
    while len(got) < _ATTEMPTS:
        if got:
            logger.warning("%s arrived with the hash %s; downloading it again", file.path, got[-1])
            progress(-file.size)
        with path.open("wb") as target:
            client.download(repo_id, commit, file, target, agent=agent, progress=progress)
        got.append(FileHash(expected.algorithm, hash_file(path, expected.algorithm)))
        if got[-1] == expected:
            return
    raise DigestError(
        f"{file.path} of {repo_id} at commit {commit} was downloaded twice: expected {expected}, "
        f"got {got[-1]}.",
        repository=repo_id,
        files=(file.path,),
        path=file.path,
        expected=str(expected),
        got=str(got[-1]),
    )


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _fingerprint(directory: Path) -> _Fingerprint:
    """For each file below a directory, the values that differ if it was changed."""
    found: _Fingerprint = {}
    for folder, folders, names in os.walk(directory):
        # os.walk does not follow a link to a directory, which must be detected, too.
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in (*names, *links):
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, directory).replace(os.sep, "/")
            if not integrity.is_ignored(relative):
                found[relative] = _stamp(path)
    return found


def _stamp(path: str) -> list[int]:
    try:
        status = os.stat(path)
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
