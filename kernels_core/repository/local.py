"""A kernel repository on disk: its builds, the one to use, and the package in it.

A path that a user names is trusted by being named: symbolic links are followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from kernels_core.errors import MetadataError, NoFittingBuildError, RepositoryNotFoundError
from kernels_core.host import HostInfo, host_info
from kernels_core.repository.dependencies import check_dependencies
from kernels_core.repository.metadata import Metadata, read_metadata
from kernels_core.variants.fit import BuildDecision, decide
from kernels_core.variants.names import is_variant_name

if TYPE_CHECKING:
    from kernels_core.plugins import Backend


@attrs.frozen
class Build:
    """One build of a kernel, ready to be imported.

    Attributes:
        repository: where it comes from: a path or "org/name".
        variant: name of the variant.
        path: the variant directory.
        package: the directory with the package's `__init__.py`.
        metadata: what the build says about itself; None when it says nothing.
        commit: the commit of a repository that has commits.
    """

    repository: str
    variant: str
    path: Path
    package: Path
    metadata: Metadata | None = None
    commit: str | None = None


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(path).expanduser().absolute()


@attrs.frozen
class LocalRepository:
    """A kernel repository on disk. Making one touches nothing.

    Attributes:
        path: the repository, which holds `build/<variant>/`. The `build` directory itself and a
            single variant directory are accepted too.
        package_name: the package inside the variant directories of older repositories; None finds
            it by the names of kernel and repository.
    """

    path: Path = attrs.field(converter=_absolute)
    package_name: str | None = None

    def builds(self) -> tuple[str, ...]:
        """The names of the builds, in order; some may be no valid variant names.

        Raises:
            RepositoryNotFoundError: there is no kernel repository at the path.
        """
        return self._locate()[1]

    def _locate(self) -> tuple[Path, tuple[str, ...]]:
        """The directory that holds the variant directories, and their names."""
        root = self.path / "build"
        try:
            if root.is_dir():
                return root, _subdirectories(root)
            names = _subdirectories(self.path)
        except OSError as error:
            raise self._not_found(
                f"There is no kernel repository at {self.path}: {error.strerror}. Pass the "
                f"directory that holds 'build'."
            ) from error
        if any(map(is_variant_name, names)):
            return self.path, names
        if is_variant_name(self.path.name):
            return self.path.parent, (self.path.name,)
        raise self._not_found(
            f"{self.path} is not a kernel repository: it has no directory 'build' with one "
            f"directory per variant, such as 'build/torch-cpu'."
        )

    def decisions(
        self, backend: Backend, device_index: int | None = None, *, host: HostInfo | None = None
    ) -> tuple[BuildDecision, ...]:
        """Decide over every build.

        Args:
            backend: the backend to use.
            device_index: the device that builds must cover; None for no particular one, which
                leaves out the check of declared architectures.
            host: the machine; this one by default.

        Returns:
            The builds that fit, best first, then the others by name, each with its reason. A
            build whose metadata is malformed does not fit.

        Raises:
            RepositoryNotFoundError: there is no kernel repository at the path.
        """
        root, names = self._locate()
        checked = []
        for decision in self._decide(names, backend, host):
            if decision.accepted:
                try:
                    metadata = self._metadata(root / decision.name)
                    reason = _reason_against(metadata, backend, device_index)
                except MetadataError as error:
                    reason = str(error)
                decision = attrs.evolve(decision, accepted=not reason, reason=reason)
            checked.append(decision)
        rejected = [decision for decision in checked if not decision.accepted]
        return (
            *(decision for decision in checked if decision.accepted),
            *sorted(rejected, key=lambda decision: decision.name),
        )

    def choose(
        self, backend: Backend, device_index: int | None = None, *, host: HostInfo | None = None
    ) -> Build:
        """Choose the best build that fits. Imports nothing.

        Unlike `decisions`, this does not pass over the best build when that one is broken: a
        program should not silently get a lesser kernel.

        Args:
            backend: the backend to use.
            device_index: the device that the build must cover, or None for no particular one.
            host: the machine; this one by default.

        Raises:
            RepositoryNotFoundError: there is no kernel repository at the path, or no package in
                the chosen build.
            NoFittingBuildError: none of the builds fits; it has the reason for each.
            MetadataError: the chosen build's metadata is malformed.
            DependencyError: something that the chosen build needs is not installed.
        """
        root, names = self._locate()
        rejected = []
        for decision in self._decide(names, backend, host):
            if decision.accepted:
                path = root / decision.name
                metadata = self._metadata(path)
                reason = _reason_against(metadata, backend, device_index)
                if not reason:
                    return self._build(path, metadata)
                decision = attrs.evolve(decision, accepted=False, reason=reason)
            rejected.append(decision)
        raise self._no_fitting_build(backend, rejected)

    def _decide(
        self, names: Iterable[str], backend: Backend, host: HostInfo | None
    ) -> tuple[BuildDecision, ...]:
        from kernels_core.plugins import registry

        return decide(
            names, backend=backend, host=host or host_info(), parse_tag=registry().parse_tag
        )

    def _metadata(self, variant_dir: Path) -> Metadata | None:
        return read_metadata(variant_dir / "metadata.json", repository=str(self.path))

    def _build(self, variant_dir: Path, metadata: Metadata | None) -> Build:
        if metadata is not None:
            check_dependencies(metadata, repository=str(self.path))
        return Build(
            repository=str(self.path),
            variant=variant_dir.name,
            path=variant_dir,
            package=self._package(variant_dir, metadata),
            metadata=metadata,
        )

    def _package(self, variant_dir: Path, metadata: Metadata | None) -> Path:
        """The package in a variant directory: the directory itself, or in old builds one in it."""
        if _is_package(variant_dir):
            return variant_dir
        packages = [
            name for name in _subdirectories(variant_dir) if _is_package(variant_dir / name)
        ]
        if self.package_name is not None:
            wanted = [self.package_name]
        else:
            names = [metadata.name if metadata else None, self.path.name]
            wanted = [name.replace("-", "_") for name in names if name]
            wanted += packages if len(packages) == 1 else []
        for name in wanted:
            if name in packages:
                return variant_dir / name
        there = f"the packages {', '.join(packages)}" if packages else "no package"
        raise self._not_found(
            f"{variant_dir} has no '__init__.py' and no package {' or '.join(map(repr, wanted))}; "
            f"it holds {there}. Name the package with package_name=."
        )

    def _not_found(self, message: str) -> RepositoryNotFoundError:
        return RepositoryNotFoundError(message, repository=str(self.path))

    def _no_fitting_build(
        self, backend: Backend, decisions: list[BuildDecision]
    ) -> NoFittingBuildError:
        if not decisions:
            message = f"{self.path} holds no builds."
        else:
            reasons = "".join(f"\n  {decision.name}: {decision.reason}" for decision in decisions)
            message = (
                f"No build in {self.path} fits backend {backend.name!r} on this machine:{reasons}"
            )
        return NoFittingBuildError(message, repository=str(self.path), decisions=tuple(decisions))


def _reason_against(metadata: Metadata | None, backend: Backend, device_index: int | None) -> str:
    """Why a build does not cover a device; "" when it does."""
    archs = metadata.backend.archs if metadata and metadata.backend else ()
    if not archs or device_index is None:
        return ""
    return backend.match_archs(archs, backend.device_facts(device_index)).reason


def _subdirectories(path: Path) -> tuple[str, ...]:
    with os.scandir(path) as entries:
        return tuple(sorted(e.name for e in entries if e.is_dir() and _is_visible(e.name)))


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__pycache__"


def _is_package(path: Path) -> bool:
    return (path / "__init__.py").is_file()
