"""Acme's accelerator for torch: with this module imported, tensors can live on `acme`.

Vendors already have such an extension, mostly in C++. This one also simulates the accelerator, in
pure Python: the memory of an acme device is memory of the host, and every operator is computed by
the host. For torch, the tensors are on `acme` all the same: it uses no other device's operators
for them, and refuses to mix them with tensors on other devices.

What copies storages instead of tensors does not work, such as `torch.save` and `copy.deepcopy` of a
plain tensor, because torch takes allocators from C++ only. Use `.cpu()` first.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.utils import _pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

# Device types of DLPack: kDLCPU, and kDLExtDev, which torch reads as the device of an extension.
_HOST, _ACME = 1, 12


@attrs.frozen
class AcmeDeviceProperties:
    """What the driver reports about one device."""

    name: str
    lanes: int


_DEVICES = (AcmeDeviceProperties("Acme One", 64), AcmeDeviceProperties("Acme Two", 128))
_opened = False


# The functions that torch expects of a device's module: this module becomes `torch.acme`.


def is_available() -> bool:
    """Whether there is a device."""
    return True


def device_count() -> int:
    """The number of devices. Opens none."""
    return len(_DEVICES)


def current_device() -> int:
    """The device that `acme` without an index means."""
    return 0


def is_initialized() -> bool:
    """Whether a device was opened, which its first operator does."""
    return _opened


def manual_seed_all(seed: int) -> None:
    """Seed the devices. Does nothing: the host generates their random numbers."""


def _is_in_bad_fork() -> bool:
    return False


# What `kernels_backend_acme.plugin` needs beside that.


def runtime_version() -> str:
    """Version of Acme's runtime."""
    return "1.2"


def get_device_properties(index: int) -> AcmeDeviceProperties:
    """Describe one device. Opens none."""
    return _DEVICES[index]


# The device itself.

_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


def _relabelled(tensor: Tensor, device_type: int, index: int) -> Tensor:
    """The same memory, as a tensor on another device."""
    capsule = torch.to_dlpack(tensor)  # type: ignore[attr-defined]
    # A DLTensor begins with the pointer to its data, then type and index of the device.
    address = _capsule_pointer(capsule, b"dltensor") + ctypes.sizeof(ctypes.c_void_p)
    (ctypes.c_int32 * 2).from_address(address)[:] = [device_type, index]
    return torch.from_dlpack(capsule)  # type: ignore[attr-defined]


def _on_acme(tensor: Tensor, index: int) -> Tensor:
    return _relabelled(tensor, _ACME, index)


def _on_host(tensor: Tensor) -> Tensor:
    if tensor.device.type != "acme":
        return tensor
    if tensor.numel() == 0:  # has no memory to share, but an operator may want to resize it
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    return _relabelled(tensor, _HOST, 0)


def _run(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """Run an operator for tensors on one acme device, or with that as its `device` argument."""
    global _opened
    _opened = True
    leaves, structure = _pytree.tree_flatten((args, kwargs))
    index = _device_index(operator, leaves)
    given: dict[int, tuple[Tensor, Tensor]] = {}  # by identity of the tensor on the host
    for position, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor):
            leaves[position] = host = _on_host(leaf)
            given[id(host)] = host, leaf
        elif isinstance(leaf, torch.device):
            leaves[position] = torch.device("cpu")
    args, kwargs = _pytree.tree_unflatten(leaves, structure)
    result = operator(*args, **kwargs)
    for host, tensor in given.values():
        if host.shape != tensor.shape:  # it was an `out` that had to grow
            tensor.data = _on_acme(host, index)

    def returned(host: Tensor) -> Tensor:
        return given[id(host)][1] if id(host) in given else _on_acme(host, index)

    return _pytree.tree_map_only(Tensor, returned, result)


def _device_index(operator: Any, leaves: list[Any]) -> int:
    """The device of an operator. Numbers may be on the host, but not larger tensors."""
    devices = {leaf.device for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()}
    devices |= {leaf for leaf in leaves if isinstance(leaf, torch.device)}
    devices = devices or {leaf.device for leaf in leaves if isinstance(leaf, Tensor)}
    if len(devices) != 1:
        found = ", ".join(sorted(map(str, devices)))
        raise RuntimeError(f"{operator}: expected tensors on one device, found {found}")
    return devices.pop().index or 0


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    """Copy between devices, for `Tensor.to`, `Tensor.cpu` and `Tensor.copy_`."""
    _on_host(target).copy_(_on_host(source))
    return target


_setup_privateuseone_for_python_backend("acme", backend_module=sys.modules[__name__])
_library: Any = torch.library  # its functions have no types
_operators = _library.Library("_", "IMPL")  # of every namespace, while this exists
_operators.fallback(_run, "PrivateUse1")
_library.impl("aten::_copy_from", "PrivateUse1", _copy_from)
