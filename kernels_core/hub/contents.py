"""The kernels in the cache: listing them, verifying them, removing those that nothing names."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs

from kernels_core.errors import KernelsError
from kernels_core.hub.answers import BUILD_FOLDER
from kernels_core.hub.cache import OWN_FOLDER, RepositoryCache, cache_root
from kernels_core.hub.client import client
from kernels_core.hub.progress import progress_bar
from kernels_core.hub.repository import HubRepository
from kernels_core.parallel import in_parallel

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo, CachedRevisionInfo, HFCacheInfo

logger = logging.getLogger("kernels_core")


@attrs.frozen
class CachedCommit:
    """A commit of a kernel repository, as far as it is in the cache.

    Attributes:
        repo_id: the repository, "org/name".
        commit: the commit.
        names: the branches and tags that led to it.
        locked: whether a program or a lock named the commit itself.
        builds: the names of its builds that have files in the cache.
        size: number of bytes of its files; commits may share files.
    """

    repo_id: str
    commit: str
    names: tuple[str, ...]
    locked: bool
    builds: tuple[str, ...]
    size: int


@attrs.frozen
class Checked:
    """A build in the cache that was verified; `problem` says what is wrong with it, or is ""."""

    repo_id: str
    commit: str
    variant: str
    problem: str = ""


def list_cache() -> tuple[CachedCommit, ...]:
    """The commits of kernels in the cache, by repository."""
    cache = _scan()
    found = [
        _described(repository, revision)
        for repository in (_kernels(cache) if cache else ())
        for revision in repository.revisions
    ]
    return tuple(sorted(found, key=lambda one: (one.repo_id, one.names, one.commit)))


def verify_cache(commits: Iterable[CachedCommit]) -> tuple[Checked, ...]:
    """Hash every file of all builds of commits, and compare it with what was published.

    Nothing is changed: a program that loads a damaged build downloads its files again.
    """
    builds = [
        (commit, variant, _size(commit, variant)) for commit in commits for variant in commit.builds
    ]
    with progress_bar("Verifying", str(cache_root()), sum(size for *_, size in builds)) as progress:

        def verified(build: tuple[CachedCommit, str, int]) -> Checked:
            commit, variant, size = build
            checked = _verified(commit, variant)
            progress(size)
            return checked

        return tuple(in_parallel(verified, builds))


def prune_cache(*, dry_run: bool) -> tuple[tuple[CachedCommit, ...], int]:
    """Remove the commits that no branch, tag or lock names.

    Returns them, and the number of bytes that this frees. With `dry_run`, nothing is removed.
    """
    cache = _scan()
    with contextlib.ExitStack() as stack:
        # What another process downloads has no name yet.
        idle = {
            repository.repo_path
            for repository in (_kernels(cache) if cache else ())
            if _unnamed(repository) and _is_idle(repository, stack)
        }
        cache = _scan() if idle else None
        if cache is None:
            return (), 0
        unnamed = [
            (repository, revision)
            for repository in _kernels(cache)
            if repository.repo_path in idle
            for revision in _unnamed(repository)
        ]
        strategy = cache.delete_revisions(*(revision.commit_hash for _, revision in unnamed))
        commits = tuple(_described(repository, revision) for repository, revision in unnamed)
        if unnamed and not dry_run:
            strategy.execute()
        return commits, int(strategy.expected_freed_size)


def _unnamed(repository: CachedRepoInfo) -> list[CachedRevisionInfo]:
    return [revision for revision in repository.revisions if not revision.refs]


def _is_idle(repository: CachedRepoInfo, stack: contextlib.ExitStack) -> bool:
    cache = RepositoryCache(
        repository.repo_id, repository.repo_type, cache_root(), client().endpoint
    )
    is_idle = stack.enter_context(cache.idle())
    if not is_idle:
        logger.warning("%s stays as it is, because it is being downloaded.", repository.repo_id)
    return is_idle


def _scan() -> HFCacheInfo | None:
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        return scan_cache_dir(cache_root())
    except CacheNotFound:
        return None


def _kernels(cache: HFCacheInfo) -> list[CachedRepoInfo]:
    return [
        repository
        for repository in cache.repos
        if repository.repo_type == "kernel" or (repository.repo_path / OWN_FOLDER).is_dir()
    ]


def _described(repository: CachedRepoInfo, revision: CachedRevisionInfo) -> CachedCommit:
    own = [name for name in revision.refs if name.startswith(f"{OWN_FOLDER}/")]
    folder = revision.snapshot_path / BUILD_FOLDER
    return CachedCommit(
        repository.repo_id,
        revision.commit_hash,
        tuple(sorted(revision.refs.difference(own))),
        bool(own),
        tuple(sorted(path.name for path in folder.glob("*") if path.is_dir())),
        revision.size_on_disk,
    )


def _size(commit: CachedCommit, variant: str) -> int:
    snapshot = HubRepository(commit.repo_id, local_files_only=True).cache.snapshot(commit.commit)
    files = (snapshot / BUILD_FOLDER / variant).rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def _verified(commit: CachedCommit, variant: str) -> Checked:
    repository = HubRepository(commit.repo_id, local_files_only=True)
    try:
        builds = repository.builds(commit.commit)
        if variant in builds:
            repository.installer(commit.commit).verify(builds[variant])
            problem = ""
        else:
            problem = "it is not a build of this commit"
    except KernelsError as error:
        problem = str(error)
    return Checked(commit.repo_id, commit.commit, variant, problem)
