"""From the name of a kernel to a verified build, and to those of the kernels that it needs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import attrs

from kernels_core import environment
from kernels_core.errors import DependencyCycleError, EnvironmentVariableError
from kernels_core.hub.patience import one_load
from kernels_core.repository.builds import Build
from kernels_core.repository.kernel_depends import needed_first, walk
from kernels_core.repository.local import LocalRepository
from kernels_core.repository.metadata import KernelDependency, Metadata
from kernels_core.repository.names import trusted_names

if TYPE_CHECKING:
    from kernels_core.hub.repository import HubRepository
    from kernels_core.locks.lock import Lock, LockedKernel
    from kernels_core.plugins import Backend
    from kernels_core.variants.fit import BuildDecision

# `get_kernel` and its family have no module whose device they could use.
FIRST_DEVICE = 0

OVERRIDES = "LOCAL_KERNELS"


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
        trust_remote_code: what the caller trusts; see `trust.check_trust`.
        user_agent: what the application tells the Hub about itself.
        local_files_only: whether to use only what is in the cache.
        lock: the lock with the commits to use; None for no lock.
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

        With a lock, revision and version have no meaning. See `HubRepository.install_best` for
        what is raised.
        """
        return self.resolve_all(repo_id, revision, version)[0]

    @one_load()
    def resolve_all(
        self, repo_id: str, revision: str | None = None, version: int | str | None = None
    ) -> list[Build]:
        """As `resolve`; returns the build of the kernel, then those of all that it needs."""
        if self.lock is not None:
            return self._with_dependencies(self._locked(self.lock.kernel(repo_id)))
        return self._with_dependencies(self._build(repo_id, revision, version))

    def resolve_local(
        self, repo_path: str | os.PathLike[str], package_name: str | None = None
    ) -> Build:
        """As `resolve`, for a repository on disk; see `LocalRepository`."""
        path = environment.expand_home(repo_path, "repo_path")
        repository = LocalRepository(path, package_name)
        build = repository.best_build(self.backend, self.device_index)
        return self._with_dependencies(build)[0]

    @one_load()
    def has(
        self, repo_id: str, revision: str | None = None, version: int | str | None = None
    ) -> bool:
        """Whether a kernel, and every kernel that it needs, has a build that fits.

        Downloads metadata only. Raises a LoadError when one of them does not exist or does not fit.
        """
        first = self._metadata(repo_id, revision, version)
        try:
            walk(first.kernel_depends, self._described, needed_by=repo_id)
        except DependencyCycleError:
            return False
        return True

    @one_load()
    def decisions(
        self, repo_id: str, revision: str | None = None, version: int | str | None = None
    ) -> tuple[BuildDecision, ...]:
        """Which builds of a kernel fit, and why the others do not. Downloads metadata only."""
        local = _override(repo_id)
        if local is not None:
            return local.decisions(self.backend, self.device_index)
        repository = self.repository(repo_id)
        commit = repository.pin(revision, version).commit
        return repository.decisions(commit, self.backend, self.device_index)

    def repository(self, repo_id: str) -> HubRepository:
        """A repository on the Hub, with the settings of this resolver."""
        # The import takes 20 ms; programs that load nothing from the Hub do without it.
        from kernels_core.hub.repository import HubRepository

        return HubRepository(
            repo_id, self.trust_remote_code, self.user_agent, self.local_files_only
        )

    def _described(
        self, dependency: KernelDependency
    ) -> tuple[Metadata, Iterable[KernelDependency]]:
        metadata = self._metadata(dependency.repo_id, dependency.revision, dependency.version)
        return metadata, metadata.kernel_depends

    def _metadata(self, repo_id: str, revision: str | None, version: int | str | None) -> Metadata:
        local = _override(repo_id)
        if local is not None:
            return local.best_build(self.backend, self.device_index).metadata or Metadata()
        repository = self.repository(repo_id)
        commit = repository.pin(revision, version).commit
        return repository.best_metadata(commit, self.backend, self.device_index)

    def _with_dependencies(self, build: Build) -> list[Build]:
        if not _needed_by(build):
            return [build]
        found = walk(_needed_by(build), self._dependency, needed_by=build.repository)
        builds = (build, *found.values())
        needs = {each: [found[needed] for needed in _needed_by(each)] for each in builds}
        linked: dict[Build, Build] = {}
        for each in needed_first(needs, _repository, _repository):
            dependencies = ((d.repo_id, linked[found[d]]) for d in _needed_by(each))
            linked[each] = attrs.evolve(each, dependencies=tuple(dependencies))
        return list(reversed(linked.values()))

    def _dependency(self, dependency: KernelDependency) -> tuple[Build, Iterable[KernelDependency]]:
        if self.lock is not None:
            build = self._locked(self.lock.dependency(dependency))
        else:
            build = self._build(dependency.repo_id, dependency.revision, dependency.version)
        return build, _needed_by(build)

    def _locked(self, kernel: LockedKernel) -> Build:
        return self._build(kernel.repo_id, kernel.commit, None, kernel.variants)

    def _build(
        self,
        repo_id: str,
        revision: str | None,
        version: int | str | None,
        expected: Mapping[str, str] | None = None,
    ) -> Build:
        local = _override(repo_id)
        if local is not None:
            return local.best_build(self.backend, self.device_index)
        repository = self.repository(repo_id)
        return repository.install_best(revision, version, self.backend, self.device_index, expected)


def _needed_by(build: Build) -> tuple[KernelDependency, ...]:
    return build.metadata.kernel_depends if build.metadata else ()


def _repository(build: Build) -> str:
    return build.repository


def _override(repo_id: str) -> LocalRepository | None:
    """The repository on disk that `LOCAL_KERNELS` names for one on the Hub, if any."""
    named: dict[str, str] = {}
    for entry in os.environ.get(OVERRIDES, "").split(os.pathsep):
        if not entry.strip():
            continue
        name, equals, path = entry.partition("=")
        if not equals or not path.strip() or name.count("/") != 1:
            raise EnvironmentVariableError(
                f"{OVERRIDES} has the entry {entry!r}, which does not have the form "
                f"'org/name=path'. Entries are separated by {os.pathsep!r}.",
                variable=OVERRIDES,
            )
        named[name.strip()] = path.strip()
    local = environment.path(OVERRIDES, named.get(repo_id, ""))
    return None if local is None else LocalRepository(local)


def warm_up() -> None:
    """Import the Hub client and create its session, so that threads do not wait for each other."""
    from huggingface_hub import get_session

    get_session()
