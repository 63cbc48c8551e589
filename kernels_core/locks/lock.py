"""A lock: the commit at which a project uses each kernel, and the hashes of that kernel's builds.

Nothing here reads a file or sends a request; `files.py` reads and writes lock files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from kernels_core.errors import NotLockedError
from kernels_core.repository.metadata import KernelDependency

LOCK_NAME = "kernels.lock"
DIGESTS_NAME = "kernels.lock.digests.json"


@attrs.frozen
class LockedKernel:
    """A kernel and the commit at which it is used.

    Attributes:
        dependency: what was required: a major version, or a branch, tag or commit.
        commit: the commit that this meant.
        variants: hash of each build, by name of the variant; None when the lock has no digests.
        direct: whether the project itself requires the kernel, rather than another kernel; None
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

    @property
    def ref(self) -> str:
        """The branch or tag that was required, or the commit."""
        at = self.dependency
        return str(at.revision) if at.version is None else f"v{at.version}"


def _sorted(kernels: Iterable[LockedKernel]) -> tuple[LockedKernel, ...]:
    return tuple(sorted(kernels, key=lambda kernel: _order(kernel.dependency)))


def _order(dependency: KernelDependency) -> tuple[str, bool, int, str]:
    by_revision = dependency.revision is not None
    return dependency.repo_id, by_revision, dependency.version or 0, dependency.revision or ""


@attrs.frozen
class Lock:
    """The content of a lock; the kernels are sorted by repository, version and revision."""

    kernels: tuple[LockedKernel, ...] = attrs.field(converter=_sorted)
    source: str = LOCK_NAME  # for errors

    def kernel(self, repo_id: str) -> LockedKernel:
        """The kernel that the project uses from a repository, or a NotLockedError."""
        found = [kernel for kernel in self.kernels if kernel.repo_id == repo_id]
        # Kernels that others need are in the lock too, maybe at another version.
        own = [kernel for kernel in found if kernel.direct] or found
        if len({kernel.commit for kernel in own}) == 1:
            return own[0]
        if own:
            locked = " and ".join(str(kernel.dependency) for kernel in own)
            problem = (
                f"{self.source} locks {locked}, but does not say which of them the project uses; "
                f"run 'kernels-core lock' again, which records it in {DIGESTS_NAME}"
            )
        else:
            problem = self._lacks(repo_id)
        raise NotLockedError(f"{problem}.", repository=repo_id, source=self.source)

    def dependency(self, dependency: KernelDependency) -> LockedKernel:
        """The kernel that another kernel needs, or a NotLockedError."""
        for kernel in self.kernels:
            if kernel.dependency == dependency:
                return kernel
        raise NotLockedError(
            f"{self._lacks(dependency)}.", repository=dependency.repo_id, source=self.source
        )

    def _lacks(self, kernel: object) -> str:
        locked = ", ".join(str(each.dependency) for each in self.kernels) or "nothing"
        return (
            f"{self.source} does not lock {kernel}, only {locked}. Add it to "
            f"[tool.kernels.dependencies] in the project's pyproject.toml, run 'kernels-core "
            f"lock', and reinstall the project"
        )
