"""Kernel mappings: which repository serves which layer, per device and mode.

There is a process-wide mapping and, inside a `use_kernel_mapping`, one that belongs to the current
context (`contextvars`). Both are replaced as a whole and never changed in place, so readers need no
lock. Declaring a mapping needs no network, no torch and no plugin.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, TypeAlias

from kernels_core.device import Device, DeviceRepositories, LayerRepositoryProtocol
from kernels_core.errors import MappingTypeError
from kernels_core.mode import Mode

_Served: TypeAlias = "LayerRepositoryProtocol | Mapping[Mode, LayerRepositoryProtocol]"

# The type of a mapping's keys is invariant, so dicts with only one kind of key are named too.
KernelMapping: TypeAlias = (
    "Mapping[str, Mapping[Device | str, Any] | Mapping[Device, _Served] | Mapping[str, _Served]]"
)
"""What users write: layer name -> device -> repository, or mode -> repository."""


# What `KernelMapping` becomes: layer name -> device type -> repositories.
Repositories: TypeAlias = "Mapping[str, Mapping[str, DeviceRepositories]]"

_base: Repositories = {}
_base_lock = threading.Lock()
_context: ContextVar[Repositories | None] = ContextVar("kernels_core_mapping", default=None)


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


def normalized(mapping: KernelMapping) -> Repositories:
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


def _overlaid(base: Repositories, added: Repositories) -> Repositories:
    """A new mapping: `base` with the entries of `added`, which take precedence."""
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


def current_mapping() -> Repositories:
    """The mapping that `kernelize` uses in this context."""
    context = _context.get()
    return _base if context is None else context


def register_kernel_mapping(mapping: KernelMapping, inherit_mapping: bool = True) -> None:
    """Add a mapping to the current context, which is the whole process unless inside a `with`.

    Outside of any `use_kernel_mapping` this applies to the whole process, including other threads;
    inside one it lasts until that one ends.

    Args:
        mapping: layer name -> device (`Device` or device type) -> repository, or mode ->
            repository. A bare repository counts as `Mode.FALLBACK`. An entry for the same layer,
            device type and equal properties replaces the earlier one.
        inherit_mapping: with False, all earlier entries are erased first.

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
        _context.set(_overlaid(context if inherit_mapping else {}, added))
        return
    with _base_lock:
        _base = _overlaid(_base if inherit_mapping else {}, added)


class _MappingContext:
    def __init__(self, mapping: KernelMapping, inherit_mapping: bool) -> None:
        # Here, so that bad input fails where it is written and the caller may reuse the dicts.
        self._added = normalized(mapping)
        self._inherit = inherit_mapping
        self._tokens: list[Token[Repositories | None]] = []

    def __enter__(self) -> None:
        below = current_mapping() if self._inherit else {}
        self._tokens.append(_context.set(_overlaid(below, self._added)))

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
        inherit_mapping: whether it extends the mapping outside; with False it replaces it.

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
