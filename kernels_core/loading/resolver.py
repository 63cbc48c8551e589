"""From the name of a kernel to a verified build on this machine, with the kernels that it needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import attrs

from kernels_core.errors import DependencyCycleError
from kernels_core.hub import client as hub
from kernels_core.hub import install
from kernels_core.hub import repository as remote
from kernels_core.hub.repository import HubRepository
from kernels_core.hub.trust import trusted_names
from kernels_core.loading.overrides import local_override
from kernels_core.locks.lock import Lock, LockedKernel
from kernels_core.repository.builds import Build
from kernels_core.repository.local import LocalRepository
from kernels_core.repository.metadata import KernelDependency, Metadata

if TYPE_CHECKING:
    from kernels_core.plugins import Backend

# More kernels than any kernel needs; what asks for more is broken or means harm.
_MOST_DEPENDENCIES = 50
_PARALLEL = 8


def _agent_text(agent: str | Mapping[str, str] | Iterable[tuple[str, str]] | None) -> str:
    if agent is None or isinstance(agent, str):
        return agent or ""
    pairs = agent.items() if isinstance(agent, Mapping) else agent
    return "; ".join(f"{name}/{value}" for name, value in pairs)


@attrs.frozen
class Resolver:
    """Finds the builds of kernels for one device. Imports nothing.

    Attributes:
        backend: the backend that serves the device.
        device_index: index of the device; None for no particular one.
        trust_remote_code: whether, or for what, the caller vouches; see `trust.check_trust`.
        user_agent: what the application wants the Hub to know of it.
        local_files_only: whether to make do with what is on this machine.
        lock: says at which commits to use the kernels; None for no lock.
    """

    backend: Backend
    device_index: int | None = None
    trust_remote_code: bool | tuple[str, ...] = attrs.field(default=False, converter=trusted_names)
    user_agent: str = attrs.field(default="", converter=_agent_text)
    local_files_only: bool = False
    lock: Lock | None = None

    def resolve(
        self, repo_id: str, revision: str | None = None, version: int | str | None = None
    ) -> Build:
        """Find the build of a kernel, and those of the kernels that it needs.

        Args:
            repo_id: the repository, "org/name".
            revision: branch, tag or commit; "main" by default. Of no meaning with a lock.
            version: a PEP 440 specifier or a major version. Of no meaning with a lock.

        Raises:
            LoadError: there is no such kernel, none that fits, none that may be loaded, or it
                cannot be fetched; see `HubRepository.install_best`.
        """
        if self.lock is not None:
            return self.with_dependencies(self._locked(self.lock.kernel(repo_id)))
        return self.with_dependencies(self._single(repo_id, revision, version))

    def has(
        self, repo_id: str, revision: str | None = None, version: int | str | None = None
    ) -> bool:
        """Whether a kernel, and every kernel that it needs, has a build. Downloads metadata only.

        Args:
            repo_id: the repository, "org/name".
            revision: branch, tag or commit; "main" by default.
            version: a PEP 440 specifier or a major version.

        Raises:
            LoadError: there is no such kernel or none that fits, or the Hub cannot be asked.
        """
        seen: set[KernelDependency] = set()
        wanted = [(repo_id, revision, version)]
        while wanted and len(seen) <= _MOST_DEPENDENCIES:
            for dependency in self._metadata(*wanted.pop()).kernel_depends:
                if dependency not in seen:
                    seen.add(dependency)
                    wanted.append((dependency.repo_id, dependency.revision, dependency.version))
        return not wanted

    def _metadata(self, repo_id: str, revision: str | None, version: int | str | None) -> Metadata:
        override = local_override(repo_id)
        if override is not None:
            local = LocalRepository(override)
            return local.best_build(self.backend, self.device_index).metadata or Metadata()
        repository = self.repository(repo_id)
        commit = repository.pin(revision, version).commit
        return repository.best_metadata(commit, self.backend, self.device_index)

    def with_dependencies(self, build: Build) -> Build:
        """Find the kernels that a build needs, and those that they need.

        Args:
            build: a build.

        Returns:
            The build with its dependencies.

        Raises:
            DependencyCycleError: kernels need each other in a circle.
            LoadError: a kernel that is needed is not there, see `resolve`.
        """
        found: dict[KernelDependency, Build] = {}
        wanted = _needed_by(build)
        while wanted:
            if len(found) + len(wanted) > _MOST_DEPENDENCIES:
                raise DependencyCycleError(
                    f"{build.repository} needs more than {_MOST_DEPENDENCIES} other kernels.",
                    repository=build.repository,
                    missing=(),
                )
            with ThreadPoolExecutor(min(len(wanted), _PARALLEL), "kernels-resolve") as pool:
                found |= zip(wanted, pool.map(self._dependency, wanted), strict=True)
            needed = (_needed_by(found[dependency]) for dependency in wanted)
            wanted = [d for d in dict.fromkeys(d for ds in needed for d in ds) if d not in found]
        return _linked(build, found, (), {})

    def _dependency(self, dependency: KernelDependency) -> Build:
        if self.lock is not None:
            return self._locked(self.lock.dependency(dependency))
        return self._single(dependency.repo_id, dependency.revision, dependency.version)

    def _locked(self, kernel: LockedKernel) -> Build:
        return self._single(kernel.repo_id, kernel.commit, None, kernel.variants)

    def _single(
        self,
        repo_id: str,
        revision: str | None,
        version: int | str | None,
        expected: Mapping[str, str] | None = None,
    ) -> Build:
        override = local_override(repo_id)
        if override is not None:
            return LocalRepository(override).best_build(self.backend, self.device_index)
        repository = self.repository(repo_id)
        return repository.install_best(revision, version, self.backend, self.device_index, expected)

    def repository(self, repo_id: str) -> HubRepository:
        """A repository of the Hub, asked as this resolver asks."""
        return HubRepository(
            repo_id, self.trust_remote_code, self.user_agent, self.local_files_only
        )


def _needed_by(build: Build) -> list[KernelDependency]:
    return list(build.metadata.kernel_depends) if build.metadata else []


def _linked(
    build: Build,
    found: Mapping[KernelDependency, Build],
    above: tuple[Build, ...],
    done: dict[Build, Build],
) -> Build:
    """A build with its dependencies, theirs and so on."""
    if build in above:
        circle = " needs ".join(b.repository for b in (*above[above.index(build) :], build))
        raise DependencyCycleError(
            f"Kernels need each other in a circle: {circle}.",
            repository=build.repository,
            missing=(),
        )
    if build not in done:
        done[build] = attrs.evolve(
            build,
            dependencies=tuple(
                (dependency.repo_id, _linked(found[dependency], found, (*above, build), done))
                for dependency in _needed_by(build)
            ),
        )
    return done[build]


def warm_up() -> None:
    """Import the Hub client and make its session, over which threads would wait for each other."""
    from huggingface_hub import get_session

    get_session()


def forget() -> None:
    """Forget what this process knows of the Hub and its kernels, but for what is on disk."""
    hub.reset()
    remote.forget()
    install.forget()
