"""The kernels that installed backends bring along."""

from __future__ import annotations

from typing import Any

from kernels_core.device import Device


def bundled_mapping() -> dict[str, dict[Device | str, Any]]:
    """The mapping of the kernels that the installed backends bring along.

    Nothing is loaded and no device is needed: entries are there for every installed backend.

    Returns:
        A mapping for `register_kernel_mapping` or `use_kernel_mapping`; empty when no installed
        backend brings kernels.

    Raises:
        PluginError: a plugin's mapping is malformed, or has entries for another device type.

    Example:
        >>> from kernels_core import bundled_mapping, register_kernel_mapping
        >>> register_kernel_mapping(bundled_mapping())
    """
    from kernels_core.errors import PluginError
    from kernels_core.plugins import registry

    merged: dict[str, dict[Device | str, Any]] = {}
    for name, backend in registry().backends.items():
        for layer_name, devices in backend.bundled().items():
            for device, repositories in devices.items():
                device_type = device.type if isinstance(device, Device) else device
                if device_type != name:
                    raise PluginError(
                        f"Plugin {backend.plugin!r} of {backend.distribution} brings a kernel for "
                        f"layer {layer_name!r} on {device_type!r}: a backend may only bring "
                        f"kernels for its own device type {name!r}.",
                        plugin=backend.plugin,
                        distribution=backend.distribution,
                        phase="bundled",
                    )
                merged.setdefault(layer_name, {})[device] = repositories
    return merged
