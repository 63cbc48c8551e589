"""Whether a lock still belongs to its project. No network: it is a question of two files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kernels_core.repository.lock_files import DIGESTS_NAME, Lock, LockedKernel
from kernels_core.repository.metadata import KernelDependency
from kernels_core.repository.project import Wanted


def check_lock(wanted: Sequence[Wanted], lock: Lock) -> tuple[str, ...]:
    """What is wrong with a lock.

    A branch that has moved on the Hub since is not wrong: a lock is there to hold still.

    Args:
        wanted: what the project asks for.
        lock: its lock.

    Returns:
        One sentence for each problem; nothing when the lock is as 'kernels-core lock' writes it.

    Example:
        >>> for problem in check_lock([Wanted("org/name", 1)], Lock(())):
        ...     print(problem)
        org/name (version 1) is not locked.
    """
    if any(kernel.variants is None or kernel.direct is None for kernel in lock.kernels):
        return (
            f"There are no digests: {DIGESTS_NAME} is missing, or the lock is of an old format.",
        )
    return (*_own_problems(wanted, lock), *_problems_of_dependencies(lock))


def _own_problems(wanted: Sequence[Wanted], lock: Lock) -> Iterator[str]:
    own = [kernel for kernel in lock.kernels if kernel.direct]
    for kernel in wanted:
        locked = [other for other in own if other.repo_id == kernel.repo_id]
        if not locked:
            yield f"{kernel} is not locked."
        for other in locked:
            if not kernel.accepts(other):
                yield f"{kernel} is asked for, and {other.dependency} is locked."
    asked = {kernel.repo_id for kernel in wanted}
    for other in own:
        if other.repo_id not in asked:
            yield f"{other.dependency} is locked, and the project does not ask for it."


def _problems_of_dependencies(lock: Lock) -> Iterator[str]:
    locked = {kernel.dependency: kernel for kernel in lock.kernels}
    needed = set(_closure((kernel for kernel in lock.kernels if kernel.direct), locked))
    for kernel in lock.kernels:
        for dependency in kernel.depends:
            if dependency not in locked:
                yield f"{dependency}, which {kernel.dependency} needs, is not locked."
        if not kernel.direct and kernel.dependency not in needed:
            yield f"{kernel.dependency} is locked, and nothing needs it."


def _closure(
    kernels: Iterable[LockedKernel], locked: dict[KernelDependency, LockedKernel]
) -> Iterator[KernelDependency]:
    """What kernels need, and what that needs."""
    pending = [dependency for kernel in kernels for dependency in kernel.depends]
    seen = set()
    while pending:
        dependency = pending.pop()
        if dependency not in seen:
            seen.add(dependency)
            yield dependency
            pending += locked[dependency].depends if dependency in locked else ()
