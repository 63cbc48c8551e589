"""What torch sees on this machine, and what to install for devices that no backend serves."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import attrs

from kernels_core.device import backend_name, install_hint
from kernels_core.host import import_torch


@attrs.frozen
class SeenDevice:
    """A type of device that torch can use, the backend for it, and the name of its first device."""

    torch_device_type: str
    backend: str
    name: str


@attrs.frozen
class UnservedDevice:
    """A type of device without an installed plugin, and what to install for it."""

    device_type: str
    name: str
    advice: str


def seen_devices() -> tuple[SeenDevice, ...]:
    """The host's processor, and the accelerator that torch was built for, if there is one."""
    processor = SeenDevice("cpu", "cpu", "this machine's processor")
    torch = import_torch()
    if torch is None:
        return (processor,)
    accelerators = getattr(torch, "accelerator", None)  # torch before 2.6 has none
    if accelerators is None or not accelerators.is_available():
        return (processor,)
    kind = accelerators.current_accelerator().type
    get_name = getattr(torch.get_device_module(kind), "get_device_name", lambda index: kind)
    accelerator = SeenDevice(kind, backend_name(kind, vars(torch.version)), str(get_name(0)))
    return (processor, accelerator)


def unserved_devices(
    seen: Iterable[SeenDevice], serving: Collection[str], installed: Collection[str]
) -> tuple[UnservedDevice, ...]:
    """What to install for devices that torch sees and no backend serves.

    Not for installed plugins: whatever prevents them from serving is reported elsewhere.
    """
    return tuple(
        UnservedDevice(device.backend, device.name, install_hint(device.backend))
        for device in seen
        if device.torch_device_type not in serving and device.backend not in installed
    )
