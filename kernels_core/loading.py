"""Loading kernels: from a repository to an imported module.

This version loads from directories. Those of the Hub are named by strings such as "org/name",
directories by `pathlib.Path`.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import attrs

from kernels_core.errors import HubNotSupportedError
from kernels_core.plugins import Backend, registry
from kernels_core.repository.importer import import_build, module_name
from kernels_core.repository.local import Build, LocalRepository
from kernels_core.repository.metadata import Metadata
from kernels_core.variants.fit import BuildDecision

# `get_local_kernel` and its family have no module whose device they could ask for.
_FIRST_DEVICE = 0


@attrs.frozen
class LoadedKernel:
    """A kernel that has been imported into this process.

    Attributes:
        build: the build that was imported.
        module: its module.
    """

    build: Build
    module: ModuleType

    @property
    def metadata(self) -> Metadata | None:
        """What the build says about itself; None when it says nothing."""
        return self.build.metadata

    @property
    def repository(self) -> str:
        """Where the build comes from: a path or "org/name"."""
        return self.build.repository


# By module name: each build is imported once.
_loaded: dict[str, LoadedKernel] = {}


def get_local_kernel(
    repo_path: str | os.PathLike[str], *, backend: str | None = None
) -> ModuleType:
    """Load a kernel from a kernel repository on disk.

    A second call with the same repository gives the same module. Files that changed in between
    have no effect until the next process.

    Args:
        repo_path: the directory that holds `build`.
        backend: which backend to choose a build for, for example "cpu"; by default the one that
            `KERNELS_BACKEND` names, else the most capable one of this machine.

    Returns:
        The kernel's module.

    Raises:
        TypeError: an argument has the wrong type.
        RepositoryNotFoundError: there is no kernel repository at the path.
        NoFittingBuildError: none of its builds fits; it has the reason for each.
        MetadataError: the chosen build's metadata is malformed.
        DependencyError: something that the chosen build needs is not installed.
        KernelsError: the backend is not there, see `Registry.backend_for`.
        Exception: whatever the kernel's own code raises while it is imported, unchanged.

    Example:
        >>> import tempfile
        >>> build = Path(tempfile.mkdtemp(), "build", "torch-universal")
        >>> build.mkdir(parents=True)
        >>> _ = (build / "__init__.py").write_text("answer = 42")
        >>> get_local_kernel(build.parents[1]).answer
        42
    """
    if not isinstance(repo_path, (str, os.PathLike)):
        raise TypeError(f"repo_path must be a str or a Path, got {repo_path!r}.")
    chosen = _backend(backend)
    return load_build(resolve_local(repo_path, backend=chosen, device_index=_FIRST_DEVICE))


def get_loaded_kernels() -> list[LoadedKernel]:
    """The kernels that have been loaded into this process, in the order of loading.

    Example:
        >>> isinstance(get_loaded_kernels(), list)
        True
    """
    return list(_loaded.values())


def get_kernel_variants(repo: str | Path, *, backend: str | None = None) -> list[BuildDecision]:
    """Decide over every build in a kernel repository on disk.

    Args:
        repo: the directory that holds `build`. A string would name a repository on the Hub.
        backend: which backend to decide for; the default is that of `get_local_kernel`.

    Returns:
        The builds that fit, best first, then the others, each with the reason against it.

    Raises:
        TypeError: an argument has the wrong type.
        HubNotSupportedError: the repository is one of the Hub.
        RepositoryNotFoundError: there is no kernel repository at the path.
        KernelsError: the backend is not there, see `Registry.backend_for`.

    Example:
        >>> import tempfile
        >>> repository = Path(tempfile.mkdtemp())
        >>> (repository / "build" / "torch-abacus").mkdir(parents=True)
        >>> for decision in get_kernel_variants(repository):
        ...     print(decision.name, decision.reason or "fits")
        torch-abacus made for backend 'abacus'; ...
    """
    if isinstance(repo, str):
        raise HubNotSupportedError(
            f"The string {repo!r} names a repository on the Hub, which this version of "
            f"kernels-core cannot load from. For a directory, pass pathlib.Path({repo!r}).",
            repository=repo,
        )
    if not isinstance(repo, os.PathLike):
        raise TypeError(f"repo must be a pathlib.Path, got {repo!r}.")
    return list(LocalRepository(repo).decisions(_backend(backend), _FIRST_DEVICE))


def resolve_local(
    repo_path: str | os.PathLike[str],
    *,
    backend: Backend,
    device_index: int | None,
    package_name: str | None = None,
) -> Build:
    """Choose the build of a repository on disk for one device. Imports nothing.

    Args:
        repo_path: the directory that holds `build`.
        backend: the backend that serves the device.
        device_index: index of the device; None for no particular one.
        package_name: the package inside the variant directories of older repositories; None finds
            it by the names of kernel and repository.

    Raises:
        RepositoryNotFoundError: there is no kernel repository at the path.
        NoFittingBuildError: none of its builds fits; it has the reason for each.
        MetadataError: the chosen build's metadata is malformed.
        DependencyError: something that the chosen build needs is not installed.

    Example:
        >>> import tempfile
        >>> build = Path(tempfile.mkdtemp(), "build", "torch-universal")
        >>> build.mkdir(parents=True)
        >>> _ = (build / "__init__.py").touch()
        >>> backend = registry().default_backend()
        >>> resolve_local(build.parents[1], backend=backend, device_index=0).variant
        'torch-universal'
    """
    return LocalRepository(Path(repo_path), package_name).choose(backend, device_index)


def load_build(build: Build) -> ModuleType:
    """Import a build, once per process, and remember it for `get_loaded_kernels`.

    Args:
        build: what `resolve_local` chose.

    Raises:
        Exception: whatever the kernel's own code raises, unchanged.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp())
        >>> _ = (path / "__init__.py").write_text("answer = 42")
        >>> load_build(Build("org/name", "torch-universal", path=path, package=path)).answer
        42
    """
    module = import_build(build)
    _loaded.setdefault(module_name(build), LoadedKernel(build, module))
    return module


def _backend(name: str | None) -> Backend:
    if name is None:
        return registry().default_backend()
    if not isinstance(name, str):
        raise TypeError(f"backend must be the name of a backend, such as 'cpu', got {name!r}.")
    return registry().backend_for(name)
