"""Locking a project: which commits its kernels stand at now, and which kernels those need.

Looks at every build and not only at this machine's, since a lock is for all machines. Nothing is
loaded, so nobody is asked whether a kernel is trusted: that is asked before its code is fetched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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


def lock_project(requirements: Sequence[Requirement]) -> Lock:
    """Find the commits that a project's kernels, and all that they need, stand at now.

    Args:
        requirements: what the project asks for.

    Raises:
        VersionNotFoundError: there is no such version, branch or tag.
        DependencyCycleError: kernels need each other in a circle.
        LoadError: the Hub cannot be asked, or what it has is no kernel.

    Example:
        >>> lock_project([]).kernels
        ()
    """
    own = {kernel.dependency: kernel for kernel in in_parallel(_lock_own, requirements)}

    def visit(dependency: KernelDependency) -> tuple[LockedKernel, Iterable[KernelDependency]]:
        kernel = own.get(dependency) or _lock_needed(dependency)
        return kernel, kernel.depends

    locked = walk(own, visit, needed_by="The project", limit=len(own) + _MOST_OTHERS)
    # Refuses circles.
    needed_first({kernel: locked[kernel].depends for kernel in locked}, _repository, str)
    return Lock(tuple(locked.values()))


def _repository(dependency: KernelDependency) -> str:
    return dependency.repo_id


def _lock_own(requirement: Requirement) -> LockedKernel:
    pinned = HubRepository(requirement.repo_id).pin(requirement.revision, requirement.version)
    if isinstance(requirement.version, int):
        dependency = KernelDependency(requirement.repo_id, requirement.version)
    else:
        # A specifier locks as the tag that it chose.
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
