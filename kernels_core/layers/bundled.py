"""The kernels that installed backends bring along."""

from __future__ import annotations

from typing import Any

from kernels_core.device import Device


def bundled_mapping() -> dict[str, dict[Device | str, Any]]:
    """The mapping of the kernels that the installed backends bring along.

    Nothing is loaded and no device is needed: entries are there for every installed backend.

    Returns:
        A mapping for `register_kernel_mapping` or `use_kernel_mapping`; empty when no installed
        backend brings kernels. A plugin that fails to say what it brings is warned of and left out.

    Raises:
        PluginError: a plugin failed and `KERNELS_STRICT_PLUGINS` is set.

    Example:
        >>> from kernels_core import bundled_mapping, register_kernel_mapping
        >>> register_kernel_mapping(bundled_mapping())
    """
    from kernels_core.plugins import Backend, registry

    merged: dict[str, dict[Device | str, Any]] = {}
    for mapping in registry().ask_each(Backend.bundled).values():
        for layer_name, devices in mapping.items():
            merged.setdefault(layer_name, {}).update(devices)
    return merged
