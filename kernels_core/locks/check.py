"""Whether a lock still matches its project."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kernels_core.locks.lock import DIGESTS_NAME, Lock, LockedKernel
from kernels_core.locks.project import Requirement
from kernels_core.repository.kernel_depends import walk
from kernels_core.repository.metadata import KernelDependency


def check_lock(requirements: Sequence[Requirement], lock: Lock) -> tuple[str, ...]:
    """What is wrong with a lock, one sentence for each problem.

    A branch on the Hub that has moved since is no problem: a lock protects from such changes.
    """
    if any(kernel.variants is None or kernel.direct is None for kernel in lock.kernels):
        return (f"The lock has no digests: {DIGESTS_NAME} is missing, or its format is old.",)
    return (*_own_problems(requirements, lock), *_problems_of_dependencies(lock))


def _own_problems(requirements: Sequence[Requirement], lock: Lock) -> Iterator[str]:
    own: dict[str, list[LockedKernel]] = {}
    for locked in lock.kernels:
        if locked.direct:
            own.setdefault(locked.repo_id, []).append(locked)
    for kernel in requirements:
        yield from _problems_of(kernel, own.pop(kernel.repo_id, []))
    for others in own.values():
        for other in others:
            yield f"{other.dependency} is locked, but the project does not require it."


def _problems_of(kernel: Requirement, locked: Sequence[LockedKernel]) -> Iterator[str]:
    if not locked:
        yield f"{kernel} is not locked."
    for other in locked:
        if not kernel.accepts(other):
            yield f"{kernel} is required, but {other.dependency} is locked."


def _problems_of_dependencies(lock: Lock) -> Iterator[str]:
    locked = {kernel.dependency: kernel for kernel in lock.kernels}

    def depends(dependency: KernelDependency) -> tuple[None, list[KernelDependency]]:
        return None, [needed for needed in locked[dependency].depends if needed in locked]

    own = [kernel.dependency for kernel in lock.kernels if kernel.direct]
    needed = walk(own, depends, needed_by=lock.source, limit=len(locked))
    for kernel in lock.kernels:
        for dependency in kernel.depends:
            if dependency not in locked:
                yield f"{dependency}, which {kernel.dependency} needs, is not locked."
        if kernel.dependency not in needed:
            yield f"{kernel.dependency} is locked, but nothing needs it."
