"""`plan`, `kernelize` and `unkernelize`: plan, load, then apply all of it or nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from kernels_core import environment
from kernels_core.layers.fallback import KernelizeFallback, policy
from kernels_core.layers.mapping import KernelMapping, current_mapping, normalized
from kernels_core.layers.report import KernelizeReport, ReportRow, report
from kernels_core.mode import Mode, stand_ins

if TYPE_CHECKING:
    import torch
    from torch import nn

    from kernels_core.layers.plan import PlannedRow, Targets
    from kernels_core.layers.swap import Change

    _M = TypeVar("_M", bound=nn.Module)

logger = logging.getLogger("kernels_core")


@attrs.frozen(eq=False)
class Plan:
    """What `kernelize` would do to a model: nothing is loaded and nothing changed yet.

    Attributes:
        model: the model.
        mode: the mode that was asked for.
    """

    model: nn.Module
    mode: Mode
    _allowed: KernelizeFallback
    _rows: tuple[PlannedRow, ...]

    @property
    def rows(self) -> tuple[ReportRow, ...]:
        """One row per distinct class, layer name and device, with its candidates in order."""
        from kernels_core.layers.report import planned_row

        return tuple(planned_row(row) for row in self._rows)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data, ready for JSON."""
        from kernels_core.layers.report import rows_to_dict

        return rows_to_dict(self.mode, self.rows)

    def __str__(self) -> str:
        from kernels_core.layers.report import table

        return table(self.rows)

    def apply(self) -> KernelizeReport:
        """Load what the plan needs and replace the forwards, all of them or none.

        Returns:
            What every layer got, or why not; `kernels_core.report(model)` tells it again.

        Raises:
            StalePlanError: the model's layers were changed since it was planned.
            LayerModeError: an entry is registered for a mode that its layer does not support.
            NoKernelError: a layer has no compatible kernel, and that is not allowed.
            LoadError: a kernel could not be loaded, and that is not allowed.
        """
        self._apply()
        return report(self.model)

    def _apply(self) -> list[Change]:
        """Apply it; returns the class that every group had and has, where it is the same too."""
        from kernels_core.layers.choose import choose
        from kernels_core.layers.functions import refer_by_name
        from kernels_core.layers.report import make_report

        choices = choose(self._rows, self.mode, self._allowed)
        classes = [
            (choice.row.group.current, choice.cls, choice.row.group.modules) for choice in choices
        ]
        changes = [change for change in classes if change[0] is not change[1]]
        for group in (row.group for row in self._rows if row.group.reference):
            refer_by_name(group.modules[0], group.reference)
        _replace(self.model, changes, make_report(self.model, self.mode, choices))
        return classes


def plan(
    model: nn.Module,
    *,
    mode: Mode,
    device: str | torch.device | None = None,
    use_fallback: bool | KernelizeFallback = True,
    mapping: KernelMapping | None = None,
) -> Plan:
    """Tell what `kernelize` would do, without loading or changing anything.

    Args:
        model: as for `kernelize`.
        mode: as for `kernelize`.
        device: as for `kernelize`.
        use_fallback: as for `kernelize`.
        mapping: as for `kernelize`.

    Returns:
        The plan; print it, or `apply()` it.

    Raises:
        KernelsError: an argument or the device cannot be used; see `kernelize`.

    Example:
        >>> from torch import nn
        >>> import kernels_core
        >>> model = nn.Linear(2, 2)
        >>> print(kernels_core.plan(model, mode=kernels_core.Mode.INFERENCE, device="cpu"))
        no extensible layers
    """
    from kernels_core.layers.plan import Targets, plan_row
    from kernels_core.layers.scan import scan

    _check_model(model)
    if not isinstance(mode, Mode):
        raise TypeError(f"mode must be a Mode such as Mode.INFERENCE, got {mode!r}.")
    stand_ins(mode)
    allowed = policy(use_fallback)
    repositories = current_mapping() if mapping is None else normalized(mapping)
    targets = Targets()
    groups = scan(model, _given_device(device, targets))
    if environment.flag("DISABLE_KERNEL_MAPPING"):
        for group in groups:
            group.kept = group.kept or "DISABLE_KERNEL_MAPPING is set"
    rows = tuple(plan_row(group, mode, repositories, targets) for group in groups)
    return Plan(model, mode, allowed, rows)


def kernelize(
    model: _M,
    *,
    mode: Mode,
    device: str | torch.device | None = None,
    use_fallback: bool | KernelizeFallback = True,
    mapping: KernelMapping | None = None,
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
        mapping: the mapping to use, alone; by default the one that is registered here.

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
    made = plan(model, mode=mode, device=device, use_fallback=use_fallback, mapping=mapping)
    made._apply()
    return model


@contextmanager
def kernelized(
    model: _M,
    *,
    mode: Mode,
    device: str | torch.device | None = None,
    use_fallback: bool | KernelizeFallback = True,
    mapping: KernelMapping | None = None,
) -> Iterator[_M]:
    """Kernelize a model for the duration of a `with`; what it was before comes back at the end.

    Args:
        model: as for `kernelize`.
        mode: as for `kernelize`.
        device: as for `kernelize`.
        use_fallback: as for `kernelize`.
        mapping: as for `kernelize`.

    Raises:
        KernelsError: see `kernelize`; every module is then as it was.

    Example:
        >>> from torch import nn
        >>> from kernels_core import Mode, kernelized
        >>> with kernelized(nn.Linear(2, 2), mode=Mode.INFERENCE, device="cpu") as model:
        ...     model
        Linear(in_features=2, out_features=2, bias=True)
    """
    from kernels_core.layers.report import keep_report, saved_report
    from kernels_core.layers.swap import put_back

    made = plan(model, mode=mode, device=device, use_fallback=use_fallback, mapping=mapping)
    before = saved_report(model)
    classes = made._apply()
    try:
        yield model
    finally:
        put_back(classes)
        keep_report(model, before)


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
    from kernels_core.layers.swap import kernelized_modules

    _check_model(model)
    found = kernelized_modules(model)
    _replace(model, [(cls, original_class(cls), modules) for cls, modules in found.items()], None)
    return model


def _replace(model: nn.Module, changes: list[Change], made: KernelizeReport | None) -> None:
    """Change the classes of modules and the report of their model, or leave both as they were."""
    from kernels_core.layers.report import keep_report, saved_report
    from kernels_core.layers.swap import assign, check_current, put_back

    before = saved_report(model)
    check_current(changes)
    try:
        assign(changes)
        keep_report(model, made)
        if made is not None:
            logger.info("kernelized %s:\n%s", type(model).__qualname__, made)
    except BaseException:  # Ctrl-C, or a handler of log records that raises
        put_back(changes)
        keep_report(model, before)
        raise


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
