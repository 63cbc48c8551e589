"""The devices that layers are on, as the backends that serve them know them."""

from __future__ import annotations

import os

import attrs
import torch

from kernels_core.device import Device, DeviceFacts
from kernels_core.errors import (
    BackendNotInstalledError,
    BackendUnavailableError,
    KernelsError,
    PluginError,
)
from kernels_core.layers.fallback import KernelizeFallback, Obstacle
from kernels_core.plugins import Backend, registry
from kernels_core.plugins.backend import describe
from kernels_core.plugins.registry import NAMED


@attrs.frozen(eq=False)
class Target:
    """One device, with the backend that serves it and what that backend knows of it."""

    backend: Backend
    index: int  # within the torch device type
    facts: DeviceFacts


class Targets:
    """Looks up the target of each torch device once per `kernelize` call.

    With `total`, no device raises: one that cannot be served is an obstacle.
    """

    def __init__(self, total: bool = False) -> None:
        self._total = total
        self._found: dict[torch.device, Target | Obstacle] = {}
        self._names: dict[torch.device, str] = {}

    def given(self, device: str | torch.device | Device | None) -> torch.device | None:
        """The torch device that the `device` argument names. Raises if no backend can serve it."""
        if device is None:
            return None
        name, index = _parse(device)
        try:
            # The name of a backend is not always what torch calls its devices.
            torch_type = registry().backend_for(name).info.torch_device_type
            parsed = torch.device(torch_type) if index is None else torch.device(torch_type, index)
            self._found[parsed] = _target(parsed, name)
        except Exception as error:
            if not self._total:
                raise
            return self.refuse(error, str(device.type if isinstance(device, Device) else device))
        return parsed

    def refuse(self, error: Exception, name: str) -> torch.device:
        """Let a device be an obstacle; returns the torch device that stands for it."""
        device = torch.device("meta")
        self._found[device] = as_obstacle(KernelizeFallback.NO_DEVICE, error)
        self._names[device] = name
        return device

    def name(self, device: torch.device) -> str:
        """The device for people."""
        return self._names.get(device) or str(device)

    def find(self, device: torch.device) -> Target | Obstacle:
        """The target of a device that a module is on, or why it has none.

        A device type that no backend knows raises UnknownDeviceError.
        """
        found = self._found.get(device)
        if found is None:
            found = self._found[device] = self._find(device)
        return found

    def _find(self, device: torch.device) -> Target | Obstacle:
        if device.type == "meta":
            return Obstacle(
                KernelizeFallback.NO_DEVICE,
                "its tensors are on the meta device, which computes nothing",
            )
        try:
            return _target(device, device.type)
        except Exception as error:
            if not self._total and not _is_of_backend(error):
                raise
            return as_obstacle(KernelizeFallback.NO_DEVICE, error)


def _is_of_backend(error: Exception) -> bool:
    """Whether no backend can serve a device, and the user named none to serve it."""
    if not isinstance(error, (BackendNotInstalledError, BackendUnavailableError, PluginError)):
        return False
    return error.backend != os.environ.get(NAMED, "").strip().lower() or not error.backend


def as_obstacle(case: KernelizeFallback, error: Exception, of: str = "") -> Obstacle:
    """An exception as an obstacle; one that is not ours is described, and does not say of what."""
    if isinstance(error, KernelsError):
        return Obstacle(case, str(error), error)
    return Obstacle(case, f"{of}: {describe(error)}" if of else describe(error), error)


def _parse(device: str | torch.device | Device) -> tuple[str, int | None]:
    if isinstance(device, Device):
        return device.type, None
    if isinstance(device, torch.device):
        return device.type, device.index
    if not isinstance(device, str):
        raise TypeError(f"device must be a string, a torch.device or a Device, got {device!r}.")
    name, _, number = device.partition(":")
    if ":" in device and not (number.isascii() and number.isdecimal()):
        raise ValueError(f"device {device!r} is not of the form 'type' or 'type:index'.")
    return name, int(number) if number else None


def _target(device: torch.device, name: str) -> Target:
    backend = registry().backend_for(name)
    index = _index(device)
    count = backend.detection().device_count
    if index >= count:
        raise BackendUnavailableError(
            f"There is no device {device.type}:{index}: the {backend.name} backend found "
            f"{count} device{'s' if count != 1 else ''}.",
            backend=backend.name,
        )
    return Target(backend, index, backend.device_facts(index))


def _index(device: torch.device) -> int:
    """A device's index; without one torch means the current device of that type."""
    index: int | None = device.index
    if index is not None:
        return index
    current = getattr(torch.get_device_module(device.type), "current_device", lambda: 0)()
    return current if isinstance(current, int) else 0
