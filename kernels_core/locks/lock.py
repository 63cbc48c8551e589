"""A lock: the commit at which a project uses each kernel, and the hashes of that kernel's builds.

No file is read here and nobody is asked; see `lock_files.py` for how a lock is written down.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from kernels_core.errors import NotLockedError
from kernels_core.repository.metadata import KernelDependency

if TYPE_CHECKING:
    from kernels_core.locks.project import Wanted

LOCK_NAME = "kernels.lock"
DIGESTS_NAME = "kernels.lock.digests.json"


@attrs.frozen
class LockedKernel:
    """A kernel and the commit at which it is used.

    Attributes:
        dependency: what was asked for: a major version, or a branch, tag or commit.
        commit: the commit that it stood for.
        variants: hash of each build, by name of the variant; None when the lock has no digests.
        direct: whether the project itself asks for the kernel, rather than another kernel; None
            when the lock does not say.
        depends: the kernels that its builds need.
    """

    dependency: KernelDependency
    commit: str
    variants: Mapping[str, str] | None = None
    direct: bool | None = None
    depends: tuple[KernelDependency, ...] = ()

    @property
    def repo_id(self) -> str:
        """The repository, "org/name"."""
        return self.dependency.repo_id


def _sorted(kernels: Iterable[LockedKernel]) -> tuple[LockedKernel, ...]:
    return tuple(sorted(kernels, key=lambda kernel: _order(kernel.dependency)))


def _order(dependency: KernelDependency) -> tuple[str, bool, int, str]:
    by_revision = dependency.revision is not None
    return dependency.repo_id, by_revision, dependency.version or 0, dependency.revision or ""


@attrs.frozen
class Lock:
    """The content of a lock.

    Attributes:
        kernels: the locked kernels, by repository, then version, then revision.
        source: where it was read, for errors.

    Example:
        >>> kernel = LockedKernel(KernelDependency("org/activation", version=1), "a" * 40)
        >>> Lock((kernel,)).kernel("org/activation").commit == "a" * 40
        True
    """

    kernels: tuple[LockedKernel, ...] = attrs.field(converter=_sorted)
    source: str = LOCK_NAME

    def kernel(self, repo_id: str) -> LockedKernel:
        """The kernel that the project uses from a repository.

        Args:
            repo_id: the repository, "org/name".

        Raises:
            NotLockedError: the lock does not name the repository, or does not say which of several
                versions is the project's own.
        """
        found = [kernel for kernel in self.kernels if kernel.repo_id == repo_id]
        # Kernels that others need stand in the lock too, maybe at another version.
        own = [kernel for kernel in found if kernel.direct] or found
        if len({kernel.commit for kernel in own}) == 1:
            return own[0]
        if own:
            at = " and ".join(str(kernel.dependency) for kernel in own)
            problem = (
                f"{self.source} names {at}, and not which of them the project uses; run "
                f"'kernels-core lock' again, which writes that to {DIGESTS_NAME}"
            )
        else:
            problem = f"{self.source} does not name {repo_id}{self._advice()}"
        raise NotLockedError(f"{problem}.", repository=repo_id, source=self.source)

    def dependency(self, dependency: KernelDependency) -> LockedKernel:
        """The kernel that another kernel needs.

        Args:
            dependency: what that kernel's metadata asks for.

        Raises:
            NotLockedError: the lock does not name it.
        """
        for kernel in self.kernels:
            if kernel.dependency == dependency:
                return kernel
        raise NotLockedError(
            f"{self.source} does not name {dependency}{self._advice()}.",
            repository=dependency.repo_id,
            source=self.source,
        )

    def _advice(self) -> str:
        there = ", ".join(str(kernel.dependency) for kernel in self.kernels) or "nothing"
        return (
            f", only {there}. Add it to [tool.kernels.dependencies] in the project's "
            f"pyproject.toml, run 'kernels-core lock', and reinstall the project"
        )


# Whether a lock still belongs to its project


def check_lock(wanted: Sequence[Wanted], lock: Lock) -> tuple[str, ...]:
    """What is wrong with a lock.

    A branch that has moved on the Hub since is not wrong: a lock is there to hold still.

    Args:
        wanted: what the project asks for.
        lock: its lock.

    Returns:
        One sentence for each problem; nothing when the lock is as 'kernels-core lock' writes it.

    Example:
        >>> from kernels_core.locks.project import Wanted
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
