"""Locking a project: which commits its kernels are at, and which kernels those need.

What is locked stays as it is, unless it is to be upgraded or does not meet a requirement any more.
Every build counts, not only those for this machine, since a lock is for all machines. No code is
downloaded, so trust is not checked here: it is checked before code is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import attrs

from kernels_core.hub.patience import one_load
from kernels_core.hub.repository import HubRepository
from kernels_core.hub.versions import Pinned
from kernels_core.locks.lock import Lock, LockedKernel
from kernels_core.locks.project import Requirement
from kernels_core.parallel import in_parallel
from kernels_core.repository.hashes import variant_hash
from kernels_core.repository.kernel_depends import needed_first, walk
from kernels_core.repository.metadata import KernelDependency

# More than the kernels of any project need.
_MOST_OTHERS = 200


@one_load()
def lock_project(requirements: Sequence[Requirement], keep: Iterable[LockedKernel] = ()) -> Lock:
    """Find the commits of a project's kernels, and of all that they need.

    Kernels to keep stay at their commits where they meet what is required, and no request is sent
    about them; the others are at the newest commits.
    """
    kept = list(keep)

    def lock_own(requirement: Requirement) -> LockedKernel:
        return _kept(kept, requirement.accepts, direct=True) or _lock_own(requirement)

    own = {kernel.dependency: kernel for kernel in in_parallel(lock_own, requirements)}

    def visit(dependency: KernelDependency) -> tuple[LockedKernel, Iterable[KernelDependency]]:
        kernel = (
            own.get(dependency)
            or _kept(kept, lambda one: one.dependency == dependency, direct=False)
            or _lock_needed(dependency)
        )
        return kernel, kernel.depends

    locked = walk(own, visit, needed_by="The project", limit=len(own) + _MOST_OTHERS)
    # Refuses cycles.
    needed_first({kernel: locked[kernel].depends for kernel in locked}, _repository, str)
    return Lock(tuple(locked.values()))


def _kept(
    kernels: Iterable[LockedKernel], accepts: Callable[[LockedKernel], bool], *, direct: bool
) -> LockedKernel | None:
    """The first kernel that is acceptable, at its commit, or None."""
    # A project may require one version of a kernel, and another kernel another one.
    kernel = min(filter(accepts, kernels), key=lambda one: one.direct is not direct, default=None)
    if kernel is None or kernel.variants is not None:
        return kernel and attrs.evolve(kernel, direct=direct)
    # The lock has no digests.
    return _lock(kernel.dependency, Pinned(kernel.ref, kernel.commit), direct=direct)


def _repository(dependency: KernelDependency) -> str:
    return dependency.repo_id


def _lock_own(requirement: Requirement) -> LockedKernel:
    pinned = HubRepository(requirement.repo_id).pin(requirement.revision, requirement.version)
    if isinstance(requirement.version, int):
        dependency = KernelDependency(requirement.repo_id, requirement.version)
    else:
        # A specifier is locked as the tag that it selected.
        revision = requirement.revision or pinned.ref
        dependency = KernelDependency(requirement.repo_id, revision=revision)
    return _lock(dependency, pinned, direct=True)


def _lock_needed(dependency: KernelDependency) -> LockedKernel:
    repository = HubRepository(dependency.repo_id)
    pinned = repository.pin(dependency.revision, dependency.version)
    return _lock(dependency, pinned, direct=False)


def _lock(dependency: KernelDependency, pinned: Pinned, *, direct: bool) -> LockedKernel:
    repository = HubRepository(dependency.repo_id)
    builds = repository.builds(pinned.commit)
    installer = repository.installer(pinned.commit)
    described = in_parallel(installer.metadata, builds.values())
    depends = dict.fromkeys(
        d for metadata in described if metadata for d in metadata.kernel_depends
    )
    return LockedKernel(
        dependency,
        pinned.commit,
        variants={name: variant_hash(build.hashes) for name, build in builds.items()},
        direct=direct,
        depends=tuple(depends),
    )
