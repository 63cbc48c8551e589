"""Loading kernels from repositories on disk."""

from __future__ import annotations

import os
from pathlib import Path

from kernels_core.plugins import Backend, registry
from kernels_core.repository.builds import Build
from kernels_core.repository.local import LocalRepository

# `get_kernel` and its family have no module whose device they could ask for.
FIRST_DEVICE = 0


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
        LoadError: a kernel that it needs is not there.

    Example:
        >>> import tempfile
        >>> build = Path(tempfile.mkdtemp(), "build", "torch-universal")
        >>> build.mkdir(parents=True)
        >>> _ = (build / "__init__.py").touch()
        >>> backend = registry().default_backend()
        >>> resolve_local(build.parents[1], backend=backend, device_index=0).variant
        'torch-universal'
    """
    build = LocalRepository(Path(repo_path), package_name).best_build(backend, device_index)
    if build.metadata is None or not build.metadata.kernel_depends:
        return build
    from kernels_core.loading.resolver import Resolver

    return Resolver(backend, device_index).with_dependencies(build)


def chosen_backend(name: str | None) -> Backend:
    """The backend that a caller names, else the default one of this machine.

    Raises:
        TypeError: the name is no string.
        KernelsError: the backend is not there, see `Registry.backend_for`.
    """
    if name is None:
        return registry().default_backend()
    if not isinstance(name, str):
        raise TypeError(f"backend must be the name of a backend, such as 'cpu', got {name!r}.")
    return registry().backend_for(name)
