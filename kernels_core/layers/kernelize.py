"""`kernelize` and `unkernelize`: plan, load, then apply all of it or nothing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

from kernels_core import environment
from kernels_core.layers.fallback import KernelizeFallback, policy
from kernels_core.mode import Mode, stand_ins

if TYPE_CHECKING:
    import torch
    from torch import nn

    from kernels_core.layers.choose import Choice
    from kernels_core.layers.plan import Targets

    _M = TypeVar("_M", bound=nn.Module)

logger = logging.getLogger("kernels_core")


def kernelize(
    model: _M,
    *,
    mode: Mode,
    device: str | torch.device | None = None,
    use_fallback: bool | KernelizeFallback = True,
) -> _M:
    """Replace the forward of a model's extensible layers by kernels that fit.

    Works in place and may be repeated with another mode or mapping: the last call decides. When it
    raises, every module is as it was.

    Args:
        model: the model.
        mode: what the model is about to be used for, for example `Mode.INFERENCE` or
            `Mode.TRAINING | Mode.TORCH_COMPILE`.
        device: the device that decides for all layers, for example "cuda", "cuda:1" or a
            torch.device. Without it, each layer's own device decides.
        use_fallback: whether layers without a compatible kernel keep their forward; False raises
            instead, and `KernelizeFallback` flags say it case by case.

    Returns:
        The model. `kernels_core.report(model)` tells what every layer got, or why not.

    Raises:
        TypeError: an argument has the wrong type.
        InvalidModeError: the mode is `FALLBACK`, or has neither `INFERENCE` nor `TRAINING`.
        MissingDeviceError: no device is given and there is no tensor to tell one from.
        UnknownDeviceError: no installed backend knows the device.
        BackendNotInstalledError: the plugin for `device` is not installed.
        BackendUnavailableError: it is installed, and cannot be used on this machine.
        LayerModeError: a mapping entry is registered for a mode that its layer does not support.
        NoKernelError: a layer has no compatible kernel and `use_fallback` does not allow that.
        LoadError: a kernel could not be loaded and `use_fallback` does not allow that.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from kernels_core import Mode, kernelize, use_kernel_forward_from_hub
        >>> @use_kernel_forward_from_hub("Doubling")
        ... class Doubling(nn.Module):
        ...     def forward(self, x: torch.Tensor) -> torch.Tensor:
        ...         return x + x
        >>> model = kernelize(nn.Sequential(Doubling()), mode=Mode.INFERENCE, device="cpu")
    """
    from kernels_core.layers.choose import choose
    from kernels_core.layers.plan import Targets, plan_row
    from kernels_core.layers.report import make_report
    from kernels_core.layers.scan import scan

    _check_model(model)
    if not isinstance(mode, Mode):
        raise TypeError(f"mode must be a Mode such as Mode.INFERENCE, got {mode!r}.")
    stand_ins(mode)
    allowed = policy(use_fallback)
    targets = Targets()
    given = _given_device(device, targets)
    groups = scan(model, given)
    if environment.flag("DISABLE_KERNEL_MAPPING"):
        for group in groups:
            group.kept = group.kept or "DISABLE_KERNEL_MAPPING is set"
    rows = [plan_row(group, mode, targets) for group in groups]
    choices = [choose(row, mode, allowed) for row in rows]
    _apply(choices)
    made = make_report(model, mode, choices)
    logger.info("kernelized %s:\n%s", type(model).__qualname__, made)
    return model


def unkernelize(model: _M) -> _M:
    """Give every layer of a model back the forward that it had before `kernelize`.

    Args:
        model: a model, kernelized or not.

    Returns:
        The model.

    Raises:
        TypeError: it is not an nn.Module.

    Example:
        >>> from torch import nn
        >>> from kernels_core import unkernelize
        >>> unkernelize(nn.Linear(2, 2))
        Linear(in_features=2, out_features=2, bias=True)
    """
    from kernels_core.layers.classes import original_class
    from kernels_core.layers.report import forget
    from kernels_core.layers.swap import assign, kernelized_modules

    _check_model(model)
    assign(
        (cls, original_class(cls), modules) for cls, modules in kernelized_modules(model).items()
    )
    forget(model)
    return model


def _check_model(model: object) -> None:
    from torch import nn

    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {model!r}.")


def _given_device(device: str | torch.device | None, targets: Targets) -> torch.device | None:
    import torch

    from kernels_core.plugins import registry

    if device is None:
        return None
    index: int | None
    if isinstance(device, torch.device):
        name, index = device.type, device.index
    elif isinstance(device, str):
        name, _, number = device.partition(":")
        if ":" in device and not (number.isascii() and number.isdecimal()):
            raise ValueError(f"device {device!r} is not of the form 'type' or 'type:index'.")
        index = int(number) if number else None
    else:
        raise TypeError(f"device must be a string or a torch.device, got {device!r}.")
    # The name of a backend is not always what torch calls its devices.
    torch_type = registry().backend_for(name).info.torch_device_type
    given = torch.device(torch_type) if index is None else torch.device(torch_type, index)
    targets.require(given, name)
    return given


def _apply(choices: list[Choice]) -> None:
    from kernels_core.layers.swap import assign

    assign(
        (choice.row.group.current, choice.cls, choice.row.group.modules)
        for choice in choices
        if choice.cls is not choice.row.group.current
    )
