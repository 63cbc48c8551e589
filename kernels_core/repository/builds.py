"""Builds: what one is, and how the one to use is selected, wherever a repository is."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import attrs

from kernels_core.errors import MetadataError, NoFittingBuildError, RepositoryNotFoundError
from kernels_core.host import HostInfo, host_info
from kernels_core.plugins import Backend, registry
from kernels_core.repository.metadata import Metadata
from kernels_core.variants.fit import BuildDecision, decide_builds
from kernels_core.variants.names import TagParser


@attrs.frozen
class Build:
    """One build of a kernel, ready to be imported.

    Attributes:
        repository: its source: a path or "org/name".
        variant: name of the variant.
        path: the variant directory.
        package: the directory with the package's `__init__.py`.
        metadata: what its `metadata.json` says; None when there is none.
        commit: the commit, for a repository that has commits.
        dependencies: the kernels that it needs, by repository.
    """

    repository: str
    variant: str
    path: Path
    package: Path
    metadata: Metadata | None = None
    commit: str | None = None
    dependencies: tuple[tuple[str, Build], ...] = ()


@attrs.frozen
class BuildSelector:
    """Selects among the builds of one repository for one device.

    Attributes:
        repository: its name in errors.
        backend: the backend to use.
        device_index: the device that builds must cover; None for no particular one, which skips the
            check of declared architectures.
        host: the machine; None for this one.
        by_metadata: whether the metadata says what a build was made for, instead of its name.
    """

    repository: str
    backend: Backend
    device_index: int | None = None
    host: HostInfo | None = None
    by_metadata: bool = False

    def decisions_by_name(self, names: Iterable[str]) -> tuple[BuildDecision, ...]:
        """Decide about builds by their names only; see `fit.decide_builds`."""
        if self.by_metadata:
            return tuple(BuildDecision(name, None, True) for name in names)
        host = self.host or host_info()
        return _decided(tuple(names), self.backend, host, registry().parse_tag)

    def decisions(
        self, names: Iterable[str], metadata_of: Callable[[str], Metadata | None]
    ) -> tuple[BuildDecision, ...]:
        """Decide about every build: those that fit, best first, then the others by name.

        Each of the others has the reason. Reads the metadata of builds whose names fit; one whose
        metadata is malformed does not fit.
        """
        checked = []
        for decision in self.decisions_by_name(names):
            if decision.accepted:
                try:
                    reason = self.reason_against(metadata_of(decision.name))
                except MetadataError as error:
                    reason = str(error)
                decision = attrs.evolve(decision, accepted=not reason, reason=reason)
            checked.append(decision)
        rejected = [decision for decision in checked if not decision.accepted]
        return (
            *(decision for decision in checked if decision.accepted),
            *sorted(rejected, key=lambda decision: decision.name),
        )

    def select_best(
        self, names: Iterable[str], metadata_of: Callable[[str], Metadata | None]
    ) -> tuple[str, Metadata | None]:
        """Select the best build that fits; return its name and metadata.

        Reads the metadata of one build after the other, until one fits. Unlike `decisions`, this
        does not skip the best build when its metadata is malformed, but raises the MetadataError: a
        program should not silently get a slower kernel.
        """
        rejected = []
        for decision in self.decisions_by_name(names):
            if decision.accepted:
                metadata = metadata_of(decision.name)
                reason = self.reason_against(metadata)
                if not reason:
                    return decision.name, metadata
                decision = attrs.evolve(decision, accepted=False, reason=reason)
            rejected.append(decision)
        raise self._no_fitting_build(rejected)

    def reason_against(self, metadata: Metadata | None) -> str:
        """Why a build does not cover the device; "" when it does."""
        made_for = metadata.backend if metadata else None
        own_names = (self.backend.name, self.backend.info.noarch_name)
        if self.by_metadata and (made_for is None or made_for.type not in own_names):
            backend = repr(made_for.type) if made_for else "no backend"
            active = self.backend.name
            return f"made for {backend} according to its metadata; the active one is {active!r}"
        archs = made_for.archs if made_for else ()
        if not archs or self.device_index is None:
            return ""
        return self.backend.match_archs(archs, self.backend.device_facts(self.device_index)).reason

    def _no_fitting_build(self, decisions: list[BuildDecision]) -> NoFittingBuildError:
        if not decisions:
            message = f"{self.repository} contains no builds."
        else:
            reasons = "".join(f"\n  {decision.name}: {decision.reason}" for decision in decisions)
            message = (
                f"No build in {self.repository} fits backend {self.backend.name!r} on this "
                f"machine:{reasons}"
            )
        return NoFittingBuildError(message, repository=self.repository, decisions=tuple(decisions))


# Builds are selected for every layer, and each time a kernel is loaded again. Their names are read
# each time, so that a result in this cache is never one for other builds.
@functools.lru_cache(maxsize=64)
def _decided(
    names: tuple[str, ...], backend: Backend, host: HostInfo, parse_tag: TagParser
) -> tuple[BuildDecision, ...]:
    return decide_builds(names, backend=backend, host=host, parse_tag=parse_tag)


def make_build(
    path: Path,
    metadata: Metadata | None,
    *,
    repository: str,
    name: str,
    package_name: str | None = None,
    commit: str | None = None,
) -> Build:
    """Make a build of a variant directory; a RepositoryNotFoundError when there is no package.

    Old builds have a package in it, with the name that the user gives, that of the metadata, or
    that of the repository.
    """
    names = [metadata.name if metadata else None, name]
    package = _find_package(path, names, repository, package_name)
    return Build(repository, path.name, path, package, metadata, commit)


def _find_package(
    path: Path, names: Iterable[str | None], repository: str, package_name: str | None
) -> Path:
    """The package in a variant directory: the directory itself, or in old builds one in it."""
    if _is_package(path):
        return path
    packages = [name for name in subdirectories(path) if _is_package(path / name)]
    allowed = [package_name] if package_name is not None else _package_names(names, packages)
    found = next((name for name in allowed if name in packages), None)
    if found is not None:
        return path / found
    plural = "s" if len(packages) > 1 else ""
    contents = f"the package{plural} {', '.join(packages)}" if packages else "no package"
    raise RepositoryNotFoundError(
        f"{path} has no '__init__.py' and no package {' or '.join(map(repr, allowed))}; "
        f"it contains {contents}. Name the package with package_name=.",
        repository=repository,
    )


def _package_names(names: Iterable[str | None], packages: list[str]) -> list[str]:
    by_name = [name.replace("-", "_") for name in names if name]
    return by_name + (packages if len(packages) == 1 else [])


def subdirectories(path: Path) -> tuple[str, ...]:
    """The names of the visible directories in a directory, in order."""
    with os.scandir(path) as entries:
        return tuple(sorted(e.name for e in entries if e.is_dir() and _is_visible(e.name)))


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__pycache__"


def _is_package(path: Path) -> bool:
    return (path / "__init__.py").is_file()
