"""`kernelize`, `kernelized` and `unkernelize`: plan, load, then apply all of it or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from kernels_core.api.plan import apply_plan, check_model, plan, planned_modules
from kernels_core.device import Device
from kernels_core.layers.classes import original_class
from kernels_core.layers.fallback import KernelizeFallback
from kernels_core.layers.mapping import KernelMapping
from kernels_core.layers.report import current_report
from kernels_core.layers.swap import kernelized_modules, replace, restore
from kernels_core.mode import Mode

if TYPE_CHECKING:
    import torch
    from torch import nn

    _M = TypeVar("_M", bound=nn.Module)


def kernelize(
    model: _M,
    *,
    mode: Mode,
    device: str | torch.device | Device | None = None,
    use_fallback: bool | KernelizeFallback = True,
    mapping: KernelMapping | None = None,
    bundled: bool | None = None,
) -> _M:
    """Replace the forward of a model's extensible layers with kernels that fit.

    Works in place and may be repeated with another mode or mapping: the last call takes effect. If
    it raises, every module is as it was before.

    Args:
        model: the model.
        mode: what the model is about to be used for, for example `Mode.INFERENCE` or
            `Mode.TRAINING | Mode.TORCH_COMPILE`.
        device: the device to choose kernels for, for all layers, for example "cuda", "cuda:1" or a
            torch.device. By default it is each layer's own device.
        use_fallback: whether layers without a compatible kernel keep their forward; with False
            that raises. `KernelizeFallback` flags allow individual cases; with
            `KernelizeFallback.ALL` only a malformed argument raises.
        mapping: the mapping to use instead of the registered one.
        bundled: whether kernels that the installed backends bundle are used where the mapping has
            none that can be used. By default only for programs that import `kernels`, or as
            `KERNELS_BUNDLED` says.

    Returns:
        The model. `kernels_core.report(model)` says which kernel each layer runs, or why none.

    Raises:
        TypeError: an argument has the wrong type.
        InvalidModeError: the mode is `FALLBACK`, or has neither `INFERENCE` nor `TRAINING`.
        MissingDeviceError: no device is given, and the model has no tensors that are on one.
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
    made = plan(
        model,
        mode=mode,
        device=device,
        use_fallback=use_fallback,
        mapping=mapping,
        bundled=bundled,
    )
    apply_plan(made)
    return model


@contextmanager
def kernelized(
    model: _M,
    *,
    mode: Mode,
    device: str | torch.device | Device | None = None,
    use_fallback: bool | KernelizeFallback = True,
    mapping: KernelMapping | None = None,
    bundled: bool | None = None,
) -> Iterator[_M]:
    """Kernelize a model inside a `with` block, and restore it at the end.

    Args:
        model: as for `kernelize`.
        mode: as for `kernelize`.
        device: as for `kernelize`.
        use_fallback: as for `kernelize`.
        mapping: as for `kernelize`.
        bundled: as for `kernelize`.

    Raises:
        KernelsError: see `kernelize`; every module is then as it was.

    Example:
        >>> from torch import nn
        >>> from kernels_core import Mode, kernelized
        >>> with kernelized(nn.Linear(2, 2), mode=Mode.INFERENCE, device="cpu") as model:
        ...     model
        Linear(in_features=2, out_features=2, bias=True)
    """
    made = plan(
        model,
        mode=mode,
        device=device,
        use_fallback=use_fallback,
        mapping=mapping,
        bundled=bundled,
    )
    before = current_report(model)
    classes = planned_modules(made)
    try:
        apply_plan(made)
        yield model
    finally:
        if classes:
            # Imported here, so that `kernelize` can be imported without torch.
            from kernels_core.layers.watched import classes_again

            classes = classes_again(classes)
        restore(model, classes, before)


def unkernelize(model: _M) -> _M:
    """Restore the forward that every layer of a model had before `kernelize`.

    Args:
        model: a model, whether kernelized or not.

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
    check_model(model)
    found = kernelized_modules(model)
    replace(model, [(cls, original_class(cls), modules) for cls, modules in found.items()], None)
    return model
