"""Locking a project: which commits its kernels stand at now, and which kernels those need.

Looks at every build and not only at this machine's, since a lock is for all machines. Nothing is
loaded, so nobody is asked whether a kernel is trusted: that is asked before its code is fetched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from kernels_core.errors import DependencyCycleError
from kernels_core.hub.repository import HubRepository
from kernels_core.hub.versions import Pinned
from kernels_core.locks.lock import Lock, LockedKernel
from kernels_core.locks.project import Wanted
from kernels_core.repository.hashes import variant_hash
from kernels_core.repository.metadata import KernelDependency

_PARALLEL = 8
# More kernels than any project needs; what asks for more is broken or means harm.
_MOST_KERNELS = 200


def lock_project(wanted: Sequence[Wanted]) -> Lock:
    """Find the commits that a project's kernels, and all that they need, stand at now.

    Args:
        wanted: what the project asks for.

    Raises:
        VersionNotFoundError: there is no such version, branch or tag.
        DependencyCycleError: kernels need each other in a circle.
        LoadError: the Hub cannot be asked, or what it has is no kernel.

    Example:
        >>> lock_project([]).kernels
        ()
    """
    locked: dict[KernelDependency, LockedKernel] = {}
    with ThreadPoolExecutor(_PARALLEL, "kernels-lock") as pool:
        for kernel in pool.map(_lock_wanted, wanted):
            locked[kernel.dependency] = kernel
        while missing := _missing(locked.values(), locked):
            if len(locked) + len(missing) > _MOST_KERNELS:
                raise DependencyCycleError(
                    f"The project's kernels need more than {_MOST_KERNELS} others.",
                    repository=missing[0].repo_id,
                    missing=(),
                )
            for kernel in pool.map(_lock_needed, missing):
                locked[kernel.dependency] = kernel
    _refuse_circles(locked)
    return Lock(tuple(locked.values()))


def _lock_wanted(wanted: Wanted) -> LockedKernel:
    pinned = HubRepository(wanted.repo_id).pin(wanted.revision, wanted.version)
    if isinstance(wanted.version, int):
        dependency = KernelDependency(wanted.repo_id, wanted.version)
    else:
        # A specifier locks as the tag that it chose.
        revision = wanted.revision or pinned.ref
        dependency = KernelDependency(wanted.repo_id, revision=revision)
    return _lock(dependency, pinned, direct=True)


def _lock_needed(dependency: KernelDependency) -> LockedKernel:
    repository = HubRepository(dependency.repo_id)
    pinned = repository.pin(dependency.revision, dependency.version)
    return _lock(dependency, pinned, direct=False)


def _lock(dependency: KernelDependency, pinned: Pinned, *, direct: bool) -> LockedKernel:
    repository = HubRepository(dependency.repo_id)
    builds = repository.builds(pinned.commit)
    installer = repository.installer(pinned.commit)
    with ThreadPoolExecutor(_PARALLEL, "kernels-metadata") as pool:
        described = list(pool.map(installer.metadata, builds.values()))
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


def _missing(
    kernels: Iterable[LockedKernel], locked: Mapping[KernelDependency, LockedKernel]
) -> list[KernelDependency]:
    needed = (dependency for kernel in kernels for dependency in kernel.depends)
    return [dependency for dependency in dict.fromkeys(needed) if dependency not in locked]


def _refuse_circles(locked: Mapping[KernelDependency, LockedKernel]) -> None:
    done: set[KernelDependency] = set()

    def visit(dependency: KernelDependency, above: tuple[KernelDependency, ...]) -> None:
        if dependency in above:
            circle = [*above[above.index(dependency) :], dependency]
            raise DependencyCycleError(
                f"Kernels need each other in a circle: {' needs '.join(map(str, circle))}.",
                repository=dependency.repo_id,
                missing=(),
            )
        if dependency not in done:
            for needed in locked[dependency].depends:
                visit(needed, (*above, dependency))
            done.add(dependency)

    for dependency in locked:
        visit(dependency, ())
