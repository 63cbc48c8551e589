"""The kernels that this process has imported, and how one of them loads another."""

from __future__ import annotations

import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from types import FrameType, ModuleType

import attrs

from kernels_core import notices
from kernels_core.errors import DependencyError, NamespaceTakenError
from kernels_core.repository.builds import Build
from kernels_core.repository.dependencies import check_dependencies
from kernels_core.repository.importer import build_of, import_build, module_name
from kernels_core.repository.metadata import Metadata


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


# Kernels import `get_kernel_dep` from `kernels`, the name of the first package that loaded them.
_INSTEAD = {"kernels": "kernels_core.compat.kernels"}

# By module name: each build is imported once.
_loaded: dict[str, LoadedKernel] = {}


def load_build(build: Build) -> ModuleType:
    """Import a build, once per process, and remember it for `get_loaded_kernels`.

    Raises a DependencyError where Python packages are not installed that the build, or one that it
    needs, depends on; a NamespaceTakenError for a native build whose operators are already
    registered; and whatever the kernel's own code raises.
    """
    name = module_name(build)
    if name not in sys.modules:
        check_packages(build)
        _check_namespace(build)
    try:
        module = import_build(build, _INSTEAD)
    except BaseException as error:
        _add_note(error, f"While importing {build.repository}, variant {build.variant}.")
        raise
    _loaded.setdefault(name, LoadedKernel(build, module))
    dirty = build.metadata.dirty if build.metadata else ()
    if dirty:
        notices.say_once(
            ("dirty", build.path),
            f"{build.repository} ({build.variant}) was built from sources with uncommitted "
            f"changes: {', '.join(dirty)} in its metadata.json. Nobody can tell what is in it; "
            f"build it from a commit.",
        )
    return module


def _add_note(error: BaseException, note: str) -> None:
    # As `add_note` of Python 3.11 does.
    error.__dict__.setdefault("__notes__", []).append(note)


def check_packages(build: Build) -> None:
    """Raise a DependencyError where Python packages are missing for a build or what it needs."""
    if build.metadata is not None:
        check_dependencies(build.metadata, repository=build.repository)
    for _, needed in build.dependencies:
        check_packages(needed)


def _check_namespace(build: Build) -> None:
    # torch ends the process when a library registers an operator that already exists: the error
    # comes from an initializer, where it cannot be caught.
    namespace = _namespace(build)
    if namespace is None or not _is_native(build) or not _has_operators(namespace):
        return
    others = [one.build for one in _loaded.values() if _namespace(one.build) == namespace]
    by = f"by the build in {others[0].path}" if others else "by something else in this process"
    raise NamespaceTakenError(
        f"The operators of {build.repository} ({build.variant}), torch.ops.{namespace}, are "
        f"already registered {by}. A native build can be loaded once per process: use that one, "
        f"or start another process.",
        repository=build.repository,
        namespace=namespace,
    )


def _namespace(build: Build) -> str | None:
    return build.metadata.id if build.metadata else None


def _has_operators(namespace: str) -> bool:
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    return any(name.startswith(f"{namespace}::") for name in torch._C._dispatch_get_all_op_names())


def _is_native(build: Build) -> bool:
    suffixes = tuple(EXTENSION_SUFFIXES)
    return any(name.endswith(suffixes) for _, _, names in os.walk(build.package) for name in names)


def get_loaded_kernels() -> list[LoadedKernel]:
    """The kernels that have been loaded into this process, in the order of loading.

    Example:
        >>> isinstance(get_loaded_kernels(), list)
        True
    """
    return list(_loaded.values())


def get_kernel_dep(repo_id: str) -> ModuleType:
    """Load a kernel that the calling kernel needs. Only the code of a kernel may call this.

    Args:
        repo_id: the repository, as in `kernel-depends` of the calling kernel's metadata, which
            gives its version.

    Returns:
        The module of the kernel that is needed.

    Raises:
        DependencyError: the caller is not a kernel, or does not declare that it needs this one.
        Exception: whatever that kernel's own code raises while it is imported, unchanged.

    Example:
        >>> get_kernel_dep("org/activation")
        Traceback (most recent call last):
        ...
        kernels_core.errors.DependencyError: get_kernel_dep('org/activation') was not called by ...
    """
    build = _calling_build()
    if build is None:
        raise DependencyError(
            f"get_kernel_dep({repo_id!r}) was not called by the code of a kernel. Outside of "
            f"kernels, call get_kernel.",
            repository=repo_id,
            missing=(repo_id,),
        )
    for name, dependency in build.dependencies:
        if name == repo_id:
            return load_build(dependency)
    raise DependencyError(
        f"{build.repository} ({build.variant}) does not declare that it needs {repo_id}: the "
        f"'kernel-depends' of its metadata.json lists "
        f"{', '.join(name for name, _ in build.dependencies) or 'nothing'}.",
        repository=build.repository,
        missing=(repo_id,),
    )


def _calling_build() -> Build | None:
    """The build whose code is nearest on the stack."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        build = build_of(frame.f_globals.get("__name__") or "")
        if build is not None:
            return build
        frame = frame.f_back
    return None
