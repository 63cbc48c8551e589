"""A lock: the commit at which a project uses each kernel, and the hashes of that kernel's builds.

No file is read here and nobody is asked; see `lock_files.py` for how a lock is written down.
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
