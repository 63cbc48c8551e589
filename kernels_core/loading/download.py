"""Downloading chosen kernels ahead of use: for programs that run later, and for bundles."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs

from kernels_core.errors import KernelsError, NoFittingBuildError, RepositoryNotFoundError
from kernels_core.hub.install import HubBuild
from kernels_core.hub.patience import one_load
from kernels_core.hub.repository import HubRepository
from kernels_core.hub.versions import Pinned, is_commit
from kernels_core.loading.resolver import Resolver
from kernels_core.locks.lock import Lock, LockedKernel
from kernels_core.locks.project import Requirement
from kernels_core.parallel import in_parallel
from kernels_core.plugins import registry
from kernels_core.repository.builds import Build
from kernels_core.repository.kernel_depends import walk
from kernels_core.repository.metadata import KernelDependency


@attrs.frozen
class Request:
    """A kernel to download with all that it needs, at the commits in a lock if there is one."""

    requirement: Requirement
    lock: Lock | None = None

    @classmethod
    def of_lock(cls, lock: Lock) -> list[Request]:
        """Everything in a lock."""
        # Kernels that others need come with those; an old lock does not say which they are.
        own = [kernel for kernel in lock.kernels if kernel.direct is not False]
        return [cls(Requirement(kernel.repo_id), _lock_for(kernel, lock)) for kernel in own]


def _lock_for(kernel: LockedKernel, lock: Lock) -> Lock:
    """A lock in which a kernel is the one that its project requires."""
    kernels = (attrs.evolve(other, direct=other is kernel) for other in lock.kernels)
    return attrs.evolve(lock, kernels=tuple(kernels))


@attrs.frozen
class Downloaded:
    """Builds of one commit, by variant, that are in the cache and verified.

    `names` are the branches and tags that led to the commit, in a lock or on the Hub.
    """

    repository: HubRepository
    commit: str
    builds: Mapping[str, HubBuild]
    names: frozenset[str] = frozenset()

    @property
    def size(self) -> int:
        """Number of bytes of all their files."""
        return sum(file.size for build in self.builds.values() for file in build.files.values())


@attrs.frozen
class Result:
    """What a request led to: the kernel and what it needs, or an error."""

    request: Request
    downloaded: tuple[Downloaded, ...] = ()
    error: KernelsError | None = None


@attrs.frozen
class Selection:
    """Which builds of a kernel to download, and what to trust.

    Attributes:
        variants: patterns of the names of variants, as in a shell; None for the builds that fit the
            first device of a backend.
        backend: name of that backend, which then needs no device on this machine; None for the most
            capable one. Patterns need no backend: any machine can download builds for any other.
        trust: what the caller trusts; see `trust.check_trust`.
    """

    variants: tuple[str, ...] | None = None
    backend: str | None = None
    trust: tuple[str, ...] = ()


@one_load()
def download_kernels(requests: Sequence[Request], selection: Selection) -> list[Result]:
    """Download kernels and all that they need; if one fails, continue with the others.

    Raises a KernelsError only when the backend is not available.
    """
    download_one = _for_device(selection) if selection.variants is None else _by_name(selection)

    def attempt(request: Request) -> Result:
        try:
            return Result(request, tuple(_named(one, request) for one in download_one(request)))
        except KernelsError as error:
            return Result(request, error=error)

    return in_parallel(attempt, requests)


def merged(results: Iterable[Result]) -> list[Downloaded]:
    """All that was downloaded, each build once, sorted by repository and commit."""
    found: dict[tuple[str, str], Downloaded] = {}
    for result in results:
        for new in result.downloaded:
            key = new.repository.repo_id, new.commit
            before = found.get(key)
            if before is not None:
                new = attrs.evolve(
                    new,
                    builds={**before.builds, **new.builds},
                    names=before.names | new.names,
                )
            found[key] = new
    return [found[key] for key in sorted(found)]


def _named(downloaded: Downloaded, request: Request) -> Downloaded:
    """Record under which names a lock has a commit, so that programs find it offline."""
    kernels = request.lock.kernels if request.lock else ()
    names = frozenset(
        kernel.ref
        for kernel in kernels
        if (kernel.repo_id, kernel.commit) == (downloaded.repository.repo_id, downloaded.commit)
        and not is_commit(kernel.ref)
    )
    for name in names:
        downloaded.repository.cache.keep_ref(name, downloaded.commit)
    return attrs.evolve(downloaded, names=downloaded.names | names)


_Download = Callable[[Request], Iterable[Downloaded]]


# The builds for one device


def _for_device(selection: Selection) -> _Download:
    backend, device = registry().backend_to_download_for(selection.backend)
    resolver = Resolver(backend, device, selection.trust)

    def download_one(request: Request) -> Iterable[Downloaded]:
        kernel = request.requirement
        builds = attrs.evolve(resolver, lock=request.lock).resolve_all(
            kernel.repo_id, kernel.revision, kernel.version
        )
        return [_of_hub(build, resolver) for build in builds]

    return download_one


def _of_hub(build: Build, resolver: Resolver) -> Downloaded:
    if build.commit is None:
        raise RepositoryNotFoundError(
            f"{build.repository} is a directory that LOCAL_KERNELS uses instead of a repository "
            f"on the Hub. Unset the variable to download from the Hub.",
            repository=build.repository,
        )
    repository = resolver.repository(build.repository)
    builds = repository.builds(build.commit)
    return Downloaded(repository, build.commit, {build.variant: builds[build.variant]})


# The builds that patterns name


def _by_name(selection: Selection) -> _Download:
    def download_one(request: Request) -> Iterable[Downloaded]:
        def visit(kernel: Requirement) -> tuple[Downloaded, Iterable[Requirement]]:
            downloaded = _install_matching(kernel, _locked(kernel, request), selection)
            return downloaded, _needed_by(downloaded)

        first = request.requirement
        return walk([first], visit, needed_by=first.repo_id).values()

    return download_one


def _locked(kernel: Requirement, request: Request) -> LockedKernel | None:
    if request.lock is None:
        return None
    if kernel == request.requirement:
        return request.lock.kernel(kernel.repo_id)
    assert not isinstance(kernel.version, str)  # only requirements of projects have specifiers
    return request.lock.dependency(
        KernelDependency(kernel.repo_id, kernel.version, kernel.revision)
    )


def _needed_by(downloaded: Downloaded) -> list[Requirement]:
    installer = downloaded.repository.installer(downloaded.commit)
    described = [installer.metadata(build) for build in downloaded.builds.values()]
    needed = (each for metadata in described if metadata for each in metadata.kernel_depends)
    return [Requirement(each.repo_id, each.version, each.revision) for each in needed]


def _install_matching(
    kernel: Requirement, locked: LockedKernel | None, selection: Selection
) -> Downloaded:
    patterns = selection.variants or ()
    repository = HubRepository(kernel.repo_id, selection.trust)
    if locked is None:
        pinned = repository.pin(kernel.revision, kernel.version)
    else:
        pinned = Pinned(locked.commit, locked.commit)
    commit = pinned.commit
    available = repository.builds(commit)
    builds = {
        name: build
        for name, build in available.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }
    if not builds:
        raise NoFittingBuildError(
            f"{kernel.repo_id} at commit {commit} has no build that matches "
            f"{' or '.join(patterns)}; it has {', '.join(sorted(available)) or 'none'}.",
            repository=kernel.repo_id,
            decisions=(),
        )
    repository.install(commit, builds, locked.variants if locked else None)
    if not is_commit(pinned.ref):
        repository.cache.keep_ref(pinned.ref, commit)
    return Downloaded(repository, commit, builds)
