"""Layer repositories: the values of mappings. Creating one has no side effects.

Anything with `load() -> type[nn.Module]` is a layer repository. Those of this package can also
resolve a build for one device first, which imports nothing, and load that build after.

Methods import what loads kernels when they run: importing it here would make this module take more
than twice as long to import, and libraries import it to declare mappings that may never be used.
"""

from __future__ import annotations

import abc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import attrs

from kernels_core import environment
from kernels_core.device import LayerRepositoryProtocol
from kernels_core.repository.names import check_reference, check_repo_id, trusted_names

if TYPE_CHECKING:
    from torch import nn

    from kernels_core.loading.resolver import Resolver
    from kernels_core.locks.installed import Caller
    from kernels_core.locks.lock import Lock
    from kernels_core.plugins import Backend
    from kernels_core.repository.builds import Build


@runtime_checkable
class ResolvableRepository(LayerRepositoryProtocol, Protocol):
    """A repository that chooses among builds for one device."""

    def resolve(self, backend: Backend, device_index: int) -> Build:
        """Choose the build for a device. Imports nothing."""
        ...

    def load_layer(self, build: Build) -> type[nn.Module]:
        """Import a build and return the layer's class."""
        ...


def name_of(repository: object) -> str:
    """A repository for people; it may be a user's own, whose `__str__` fails."""
    try:
        return str(repository)
    except Exception:
        return object.__repr__(repository)


class _LayerRepository(abc.ABC):
    """What the repositories of this package share."""

    __slots__ = ()

    layer_name: str

    @abc.abstractmethod
    def resolve(self, backend: Backend, device_index: int) -> Build:
        """Choose the build for a device. Imports nothing."""

    def load_layer(self, build: Build) -> type[nn.Module]:
        """Import a build and return the layer's class.

        Args:
            build: what `resolve` chose.

        Raises:
            InvalidLayerError: the kernel does not export the layer.
        """
        from kernels_core.layers.validation import exported_layer
        from kernels_core.loading.loaded import load_build

        return exported_layer(load_build(build), build, self.layer_name)

    def load(self) -> type[nn.Module]:
        """Load the layer for the default backend of this machine."""
        from kernels_core.plugins import registry

        return self.load_layer(self.resolve(registry().default_backend(), 0))


class HubLayer(_LayerRepository):
    """What the repositories on the Hub share."""

    __slots__ = ()

    trust_remote_code: bool | tuple[str, ...]
    user_agent: str | tuple[tuple[str, str], ...] | None

    def _resolver(self, backend: Backend, device_index: int, lock: Lock | None = None) -> Resolver:
        from kernels_core.loading.resolver import Resolver

        return Resolver(backend, device_index, self.trust_remote_code, self.user_agent, lock=lock)


def _check_name(_: object, attribute: attrs.Attribute[str], value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name} must be a string, got {value!r}.")
    if not value:
        raise ValueError(f"{attribute.name} must not be empty.")


def _check_repo_id(_: object, __: attrs.Attribute[str], value: object) -> None:
    check_repo_id(value)


def _absolute(path: str | os.PathLike[str], argument: str) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{argument} must be a path, got {path!r}.")
    return environment.expand_home(path, argument).absolute()


def _repo_path(path: str | os.PathLike[str]) -> Path:
    return _absolute(path, "repo_path")


def _lockfile(path: str | os.PathLike[str]) -> Path:
    return _absolute(path, "lockfile")


@attrs.frozen
class LocalLayerRepository(_LayerRepository):
    """A layer of a kernel repository on disk.

    Attributes:
        repo_path: the repository, the directory that contains `build`. A relative path is resolved
            right away, from the working directory.
        layer_name: name of the layer's class in the kernel.
        package_name: name of the package inside the variant directory, for older repositories
            whose directory is not named like them.

    Example:
        >>> LocalLayerRepository("/kernels/activation", layer_name="SiluAndMul").layer_name
        'SiluAndMul'
    """

    repo_path: Path = attrs.field(converter=_repo_path)
    layer_name: str = attrs.field(kw_only=True, validator=_check_name)
    package_name: str | None = attrs.field(
        kw_only=True, default=None, validator=attrs.validators.optional(_check_name)
    )

    def resolve(self, backend: Backend, device_index: int) -> Build:
        """Choose the build for a device. Imports nothing.

        Args:
            backend: the backend that serves the device.
            device_index: index of the device within its torch device type.

        Raises:
            RepositoryNotFoundError: there is no repository at this path.
            NoFittingBuildError: none of its builds fits; it lists each with the reason.
        """
        from kernels_core.loading.resolver import Resolver

        return Resolver(backend, device_index).resolve_local(self.repo_path, self.package_name)

    def __str__(self) -> str:
        return str(self.repo_path)


def _agent(value: str | Mapping[str, str] | None) -> str | tuple[tuple[str, str], ...] | None:
    return tuple(sorted(value.items())) if isinstance(value, Mapping) else value


@attrs.frozen
class LayerRepository(HubLayer):
    """A layer of a kernel repository on the Hub.

    Attributes:
        repo_id: "organization/name".
        layer_name: name of the layer's class in the kernel.
        revision: branch, tag or commit; None means "main" unless `version` is given.
        version: a PEP 440 specifier over the version tags, or an int, the branch of that major
            version. Not together with `revision`.
        trust_remote_code: whether to load from a publisher that is not trusted, or a list of
            repositories for which to do so.
        user_agent: names of the application that are sent to the Hub.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: `revision` and `version` together, a malformed `repo_id` or `version`.

    Example:
        >>> LayerRepository("org/activation", "SiluAndMul", version=">=0.0.3,<0.1").version
        '>=0.0.3,<0.1'
    """

    repo_id: str = attrs.field(validator=_check_repo_id)
    layer_name: str = attrs.field(validator=_check_name)
    revision: str | None = attrs.field(
        kw_only=True, default=None, validator=attrs.validators.optional(_check_name)
    )
    version: int | str | None = attrs.field(kw_only=True, default=None)
    trust_remote_code: bool | tuple[str, ...] = attrs.field(
        kw_only=True, default=False, converter=trusted_names
    )
    user_agent: str | tuple[tuple[str, str], ...] | None = attrs.field(
        kw_only=True, default=None, converter=_agent
    )

    def __attrs_post_init__(self) -> None:
        check_reference(self.revision, self.version)

    def resolve(self, backend: Backend, device_index: int) -> Build:
        """Choose the build for a device and download it into the cache. Imports nothing.

        Args:
            backend: the backend that serves the device.
            device_index: index of the device within its torch device type.

        Raises:
            LoadError: there is no such kernel, none that fits, none that is trusted, or it cannot
                be downloaded; the subclass says which.
        """
        resolver = self._resolver(backend, device_index)
        return resolver.resolve(self.repo_id, self.revision, self.version)

    def __str__(self) -> str:
        at = f"version {self.version}" if self.version is not None else self.revision or "main"
        return f"{self.repo_id} at {at}"


def _find_same_lock(one: Caller | None, other: Caller | None) -> bool:
    if one is None or other is None or one == other:
        return one == other
    from kernels_core.locks.installed import find_same_lock

    return find_same_lock(one, other)


@attrs.frozen
class LockedLayerRepository(HubLayer):
    """A layer of a kernel repository on the Hub, at the commit that a lock file names.

    Two with equal arguments are equal, unless the code that makes them has different locks.

    Attributes:
        repo_id: "organization/name".
        layer_name: name of the layer's class in the kernel.
        lockfile: the lock file; None means the one in the metadata of the package whose code makes
            this object.
        trust_remote_code: as for `LayerRepository`.
        user_agent: as for `LayerRepository`.

    Example:
        >>> LockedLayerRepository("org/activation", layer_name="SiluAndMul").lockfile is None
        True
    """

    repo_id: str = attrs.field(validator=_check_repo_id)
    layer_name: str = attrs.field(kw_only=True, validator=_check_name)
    lockfile: Path | None = attrs.field(
        kw_only=True, default=None, converter=attrs.converters.optional(_lockfile)
    )
    trust_remote_code: bool | tuple[str, ...] = attrs.field(
        kw_only=True, default=False, converter=trusted_names
    )
    user_agent: str | tuple[tuple[str, str], ...] | None = attrs.field(
        kw_only=True, default=None, converter=_agent
    )
    # The code that resolves it later may belong to another package than the code that makes it.
    _caller: Caller | None = attrs.field(
        init=False, repr=False, eq=attrs.cmp_using(eq=_find_same_lock), hash=False
    )

    @_caller.default
    def _calling_code(self) -> Caller | None:
        if self.lockfile is not None:
            return None
        from kernels_core.locks.installed import calling_code

        return calling_code()

    def resolve(self, backend: Backend, device_index: int) -> Build:
        """Choose the build for a device and download it into the cache. Imports nothing.

        Args:
            backend: the backend that serves the device.
            device_index: index of the device within its torch device type.

        Raises:
            LockFileNotFoundError: there is no lock file.
            LockFileError: the lock file is malformed.
            NotLockedError: it does not name the repository.
            LoadError: as for `LayerRepository.resolve`.
        """
        from kernels_core.locks.installed import find_lock

        lock = find_lock(self.lockfile, self._caller)
        return self._resolver(backend, device_index, lock).resolve(self.repo_id)

    def __str__(self) -> str:
        return f"{self.repo_id} at its locked commit"
