"""Kernel mappings: which repositories serve which layer, per device and mode.

A mapping has levels, searched from first to last: one per `use_kernel_mapping` around the code, the
innermost first, then the registered one, and below them the kernels that installed backends bundle.
Levels are replaced as a whole and never changed in place, so readers need no lock. Declaring a
mapping needs no network, no torch and no plugin.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from kernels_core import environment
from kernels_core.device import Device, DeviceRepositories
from kernels_core.errors import KernelsError, MappingError, MappingTypeError

if TYPE_CHECKING:
    from kernels_core.plugins import Registry

# The type of a mapping's keys is invariant, and dict literals often mix strings with devices, and
# repositories with dicts: any narrower type would refuse some of them.
KernelMapping: TypeAlias = "Mapping[str, Mapping[Any, Any]]"
"""What users write: layer name -> device -> repository or list of them, or mode -> such a value."""


# One level: layer name -> device type -> repositories.
Level: TypeAlias = "Mapping[str, Mapping[str, DeviceRepositories]]"


class Levels(NamedTuple):  # which takes less time to import than a class of attrs
    """A mapping: its levels, the first one first, and whether bundled kernels may stand below."""

    levels: tuple[Level, ...]
    takes_bundled: bool = True

    def extended(self, added: Level, inherit: bool) -> Levels:
        """With one more level in front, or with nothing else."""
        return self._replace(levels=(added, *self.levels)) if inherit else _alone(added)

    def merged(self, added: Level, inherit: bool) -> Levels:
        """With more entries in the first level, or with nothing else."""
        if not inherit:
            return _alone(added)
        first, *others = self.levels
        return self._replace(levels=(_overlaid(first, added), *others))


def _alone(level: Level) -> Levels:
    return Levels((level,), takes_bundled=False)


_base = Levels(({},))
_base_lock = threading.Lock()
_context: ContextVar[Levels | None] = ContextVar("kernels_core_mapping", default=None)


def _as_device(device: object) -> Device:
    if isinstance(device, Device):
        return device
    if isinstance(device, str):
        return Device(device)
    raise MappingTypeError(f"{device!r} is not a device: expected a Device or a string like 'cpu'.")


def _expect_mapping(value: object, of_what: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise MappingTypeError(f"{of_what} must be a dict, got {value!r}.")
    return value


def normalized(mapping: KernelMapping) -> Level:
    """What a user wrote, checked and copied, so that the user's dicts are never aliased."""
    result: dict[str, Mapping[str, DeviceRepositories]] = {}
    for layer_name, devices in _expect_mapping(mapping, "A kernel mapping").items():
        if not isinstance(layer_name, str) or not layer_name:
            raise MappingTypeError(f"A layer name must be a non-empty string, got {layer_name!r}.")
        by_type: dict[str, DeviceRepositories] = {}
        for key, repositories in _expect_mapping(devices, f"The entry of {layer_name!r}").items():
            device = _as_device(key)
            if device.type not in by_type:
                by_type[device.type] = device.create_repo()
            by_type[device.type].insert(device, repositories)
        result[layer_name] = by_type
    return result


def _overlaid(base: Level, added: Level) -> Level:
    """A new level: `base` with the entries of `added`, which replace equal ones."""
    result = dict(base)
    for layer_name, by_type in added.items():
        merged = dict(result.get(layer_name, ()))
        for device_type, repositories in by_type.items():
            known = merged.get(device_type)
            if known is not None:
                known = known.copy()
                known.entries.update(repositories.entries)
            merged[device_type] = known or repositories
        result[layer_name] = merged
    return result


def current_mapping() -> Levels:
    """The mapping that `kernelize` uses in this context."""
    context = _context.get()
    return _base if context is None else context


def register_kernel_mapping(mapping: KernelMapping, inherit_mapping: bool = True) -> None:
    """Add a mapping to the current context, which is the whole process unless inside a `with`.

    Outside of any `use_kernel_mapping` this applies to the whole process, including other threads;
    inside one it lasts until that one ends.

    Args:
        mapping: layer name -> device (`Device` or device type) -> repository, or mode ->
            repository. A bare repository counts as `Mode.FALLBACK`. In place of a repository there
            may be a list of them, which are tried in order. An entry for the same layer, device
            type and equal properties replaces the earlier one.
        inherit_mapping: with False, all earlier entries are erased first, and kernels that
            backends bundle are not used.

    Raises:
        MappingError: a value that cannot be used.
        MappingTypeError: an object of the wrong type. Earlier entries stay as they were.

    Example:
        >>> from kernels_core import LayerRepository, register_kernel_mapping
        >>> register_kernel_mapping(
        ...     {"RMSNorm": {"cuda": LayerRepository("org/norms", "RMSNorm", version=1)}}
        ... )
    """
    global _base
    added = normalized(mapping)
    context = _context.get()
    if context is not None:
        _context.set(context.merged(added, inherit_mapping))
        return
    with _base_lock:
        _base = _base.merged(added, inherit_mapping)


class _MappingContext:
    def __init__(self, mapping: KernelMapping, inherit_mapping: bool) -> None:
        # Here, so that bad input fails where it is written and the caller may reuse the dicts.
        self._added = normalized(mapping)
        self._inherit = inherit_mapping
        self._tokens: list[Token[Levels | None]] = []

    def __enter__(self) -> None:
        self._tokens.append(_context.set(current_mapping().extended(self._added, self._inherit)))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _context.reset(self._tokens.pop())


def use_kernel_mapping(mapping: KernelMapping, inherit_mapping: bool = True) -> _MappingContext:
    """Use a mapping inside a `with` block.

    Args:
        mapping: as for `register_kernel_mapping`.
        inherit_mapping: whether the mapping outside, and below it the kernels that backends
            bundle, are used where this one has no kernel that can be used.

    Returns:
        The context manager. It can be entered several times.

    Raises:
        MappingError: a value that cannot be used.
        MappingTypeError: an object of the wrong type.

    Example:
        >>> from kernels_core import LayerRepository, use_kernel_mapping
        >>> mapping = {"RMSNorm": {"cuda": LayerRepository("org/norms", "RMSNorm", version=1)}}
        >>> with use_kernel_mapping(mapping):
        ...     pass  # kernelize(model, mode=Mode.INFERENCE)
    """
    return _MappingContext(mapping, inherit_mapping)


def bundled_mapping() -> dict[str, dict[Device | str, Any]]:
    """The mapping of the kernels that the installed backends bundle.

    Nothing is loaded and no device is needed: there are entries for every installed backend.

    Returns:
        A mapping for `register_kernel_mapping` or `use_kernel_mapping`; empty when no installed
        backend bundles kernels. A plugin that fails to declare its kernels is left out, with a
        warning.

    Raises:
        PluginError: a plugin failed and `KERNELS_STRICT_PLUGINS` is set.

    Example:
        >>> from kernels_core import bundled_mapping, register_kernel_mapping
        >>> register_kernel_mapping(bundled_mapping())
    """
    # Here, because declaring a mapping needs no plugins.
    from kernels_core.plugins import Backend, registry

    merged: dict[str, dict[Device | str, Any]] = {}
    for mapping in registry().call_each(Backend.bundled).values():
        for layer_name, devices in mapping.items():
            merged.setdefault(layer_name, {}).update(devices)
    return merged


BUNDLED = "KERNELS_BUNDLED"

_by_default = False
_bundled: tuple[Registry, Level] | None = None


def use_bundled_by_default(value: bool) -> None:
    """Whether bundled kernels are used where neither the caller nor the environment decides."""
    global _by_default
    _by_default = value


def bundled_position() -> str | None:
    """Where the environment puts bundled kernels: "off", "fallback", "first", or nowhere."""
    return environment.choice(BUNDLED, ("off", "fallback", "first"))


def levels_to_search(mapping: Levels, bundled: bool | None) -> tuple[Level, ...]:
    """The levels of a mapping, with the bundled kernels where the caller or the environment says.

    Raises EnvironmentVariableError, and what finding plugins raises.
    """
    position = bundled_position()
    wanted = bundled
    if wanted is None:
        wanted = _by_default if position is None else position != "off"
    if not wanted or not mapping.takes_bundled:
        return mapping.levels
    if position == "first":
        return (_bundled_level(), *mapping.levels)
    return (*mapping.levels, _bundled_level())


def is_bundled(level: Level) -> bool:
    """Whether a level is that of the bundled kernels."""
    return _bundled is not None and level is _bundled[1]


def bundled_names() -> frozenset[str]:
    """The layers that installed backends bundle; none where finding out fails."""
    try:
        return frozenset(_bundled_level())
    except KernelsError:
        return frozenset()


def _bundled_level() -> Level:
    """The bundled kernels; kept, so that what was found in them is kept, too."""
    global _bundled
    from kernels_core.plugins import Backend, registry

    plugins = registry()
    if _bundled is None or _bundled[0] is not plugins:
        level: Level = {}
        for backend, mapping in plugins.call_each(Backend.bundled).items():
            try:
                level = _overlaid(level, normalized(mapping))
            except (MappingError, MappingTypeError) as error:
                warnings.warn(
                    f"The kernels that {backend.distribution} bundles are not used: {error}",
                    RuntimeWarning,
                    stacklevel=2,
                )
        _bundled = plugins, level
    return _bundled[1]
