"""Locking a project: which commits its kernels are at now, and which kernels those need.

Every build counts, not only those for this machine, since a lock is for all machines. No code is
downloaded, so trust is not checked here: it is checked before code is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
def lock_project(requirements: Sequence[Requirement]) -> Lock:
    """Find the commits that a project's kernels, and all that they need, are at now."""
    own = {kernel.dependency: kernel for kernel in in_parallel(_lock_own, requirements)}

    def visit(dependency: KernelDependency) -> tuple[LockedKernel, Iterable[KernelDependency]]:
        kernel = own.get(dependency) or _lock_needed(dependency)
        return kernel, kernel.depends

    locked = walk(own, visit, needed_by="The project", limit=len(own) + _MOST_OTHERS)
    # Refuses cycles.
    needed_first({kernel: locked[kernel].depends for kernel in locked}, _repository, str)
    return Lock(tuple(locked.values()))


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
