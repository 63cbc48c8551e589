"""What torch sees on this machine, and what to install for what no backend serves."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import attrs

from kernels_core.device import backend_name, install_hint


@attrs.frozen
class SeenDevice:
    """Hardware that torch can use.

    Attributes:
        torch_device_type: what torch calls it.
        backend: name of the backend that would serve it.
        name: of its first device, for people.
    """

    torch_device_type: str
    backend: str
    name: str


@attrs.frozen
class UnservedDevice:
    """Hardware for which no plugin is installed.

    Attributes:
        device_type: the backend that would serve it.
        name: of its first device, for people.
        advice: what to install.
    """

    device_type: str
    name: str
    advice: str


def seen_devices() -> tuple[SeenDevice, ...]:
    """The host's processor, and the accelerator that torch was built for where there is one.

    Example:
        >>> seen_devices()[0].torch_device_type
        'cpu'
    """
    processor = SeenDevice("cpu", "cpu", "this machine's processor")
    try:
        import torch
    except ModuleNotFoundError:
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
    """What to install for hardware that is seen and not served.

    Args:
        seen: the hardware.
        serving: the torch device types that a backend finds devices of.
        installed: names of the plugins that are installed: what keeps them from serving stands
            elsewhere, and installing them again would not help.

    Example:
        >>> processor = SeenDevice("cpu", "cpu", "this machine's processor")
        >>> unserved_devices([processor], serving=(), installed=())[0].advice
        'pip install kernels-backend-cpu'
    """
    return tuple(
        UnservedDevice(device.backend, device.name, install_hint(device.backend))
        for device in seen
        if device.torch_device_type not in serving and device.backend not in installed
    )
