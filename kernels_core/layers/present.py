"""What the modules of a model run now, compared with what was decided for them."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import attrs
import torch
from torch import nn

from kernels_core.errors import MissingDeviceError
from kernels_core.layers.captures import Running, casts, running
from kernels_core.layers.children import each_module
from kernels_core.layers.classes import original_class, swapped_layer
from kernels_core.layers.load import build_of_layer
from kernels_core.layers.report import KernelizeReport, Outcome, ReportRow, make_report
from kernels_core.layers.scan import FOREIGN_FORWARD, Group, scan
from kernels_core.layers.validation import requirements, unsuitable

_AGAIN = "call kernelize again"

Layer = type[nn.Module] | None


# The last report on what became of another one, so that equal ones are one object.
_last: weakref.WeakKeyDictionary[KernelizeReport, KernelizeReport] = weakref.WeakKeyDictionary()


def refreshed(model: nn.Module, made: KernelizeReport) -> KernelizeReport:
    """The report of a model as it is now; the same object as before, if nothing has changed."""
    now = make_report(model, made.mode, _in_order(made, _outcomes(model, made)))
    for known in (made, _last.get(made)):
        if known is not None and known._says_the_same(now):
            return known
    _last[made] = now
    return now


def _in_order(made: KernelizeReport, outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The rows that stayed first, and in their order."""
    order = {attrs.evolve(row, count=0): number for number, row in enumerate(made.rows)}
    return sorted(outcomes, key=lambda outcome: order.get(outcome[0], len(order)))


def _outcomes(model: nn.Module, made: KernelizeReport) -> Iterable[Outcome]:
    decided: dict[int, tuple[ReportRow, type[nn.Module] | None]] = {}
    for row, reference, members in zip(made.rows, made._classes, made._members, strict=True):
        decided.update(dict.fromkeys(members, (attrs.evolve(row, count=0), reference())))
    found: dict[int, Outcome] = {}
    # For mypy, a class of modules is not hashable.
    row_now: Callable[..., ReportRow] = functools.cache(_row_now)
    needed_by: Callable[[Any], Any] = functools.cache(requirements)

    def add(
        module: nn.Module, group: Group | None, row: ReportRow, cls: type[nn.Module] | None
    ) -> None:
        now = running(module)
        layer = swapped_layer(cls) if cls and row.kernel else None
        needed = now.layer or (layer if swapped_layer(type(module)) is layer else None)
        unfit = unsuitable(module, needed_by(needed)) if needed else ""
        casting = bool(unfit) and now.layer is None and now.wrapped and casts(module)
        bound = "forward" in module.__dict__
        new = row_now(row, layer, group, type(module), now, unfit, casting, bound)
        found.setdefault(id(new), (new, type(module), []))[2].append(module)

    for group in _groups(model, made):
        added = (_added(group), None)
        for module in group.modules:
            add(module, group, *decided.pop(id(module), added))
    for module in each_module(model) if decided else ():
        known, cls = decided.get(id(module), (None, None))
        # Another module may have got the id of one that is gone, but not a class that is related.
        if known and cls and _are_related(type(module), original_class(cls)):
            add(module, None, known, cls)
    return found.values()


def _are_related(one: type, other: type) -> bool:
    return issubclass(one, other) or (one is not nn.Module and issubclass(other, one))


def _groups(model: nn.Module, made: KernelizeReport) -> list[Group]:
    try:
        return scan(model, None)
    except MissingDeviceError:  # kernelize was given a device, or the model had tensors
        # A row without a kernel may name a device that torch does not know.
        device = next((row.device for row in made.rows if row.kernel), "meta")
        return scan(model, torch.device(device))


def _row_now(
    row: ReportRow,
    layer: Layer,
    group: Group | None,
    cls: type[nn.Module],
    now: Running,
    unfit: str,
    casting: bool,
    bound: bool,
) -> ReportRow:
    """The row of a module of a class; the layer is the one that was decided for it."""
    if group is not None and not group.function:
        row = attrs.evolve(row, class_name=group.original.__qualname__)
    notes = [row.note] if row.note else []
    if now.layer is None:
        if unfit and layer is not None:
            unfit = f"{unfit} for the kernel {layer.__name__}, which is used again when it fits"
        if casting:
            notes.append(f"in calls in which another package's forward makes it fit: now {unfit}")
            return attrs.evolve(row, note="; ".join(notes))
        return _without_kernel(row, unfit or _why_original(cls, group, row, layer, now, bound))
    if now.layer is not layer:
        row = _with_kernel(row, now.layer)
    if now.wrapped:
        notes.append("inside a forward that another package set on the instance")
    if swapped_layer(cls) is not now.layer:
        notes.append("which was captured before its class changed")
    if unfit:
        notes.append(f"it does not meet the kernel's conditions any more, {_AGAIN}: {unfit}")
    if group is not None and _moved(row.device, group.device):
        notes.append(f"its device is {group.device} now, {_AGAIN}")
    return attrs.evolve(row, note="; ".join(notes))


def _added(group: Group) -> ReportRow:
    return ReportRow(
        layer_name=group.layer_name,
        class_name=group.function or group.original.__qualname__,
        device=str(group.device),
        count=0,
        reason=f"the module came into the model after kernelize, {_AGAIN}",
    )


def _without_kernel(row: ReportRow, reason: str) -> ReportRow:
    return attrs.evolve(
        row,
        kernel=None,
        repository=None,
        variant=None,
        commit=None,
        mode=None,
        note="" if row.kernel else row.note,
        reason=reason,
    )


def _with_kernel(row: ReportRow, layer: type[nn.Module]) -> ReportRow:
    build = build_of_layer(layer)
    return attrs.evolve(
        row,
        kernel=layer.__name__,
        repository=build.repository if build else layer.__module__,
        variant=build.variant if build else None,
        commit=build.commit if build else None,
        mode=None,
        reason="",
    )


def _why_original(
    cls: type[nn.Module],
    group: Group | None,
    row: ReportRow,
    layer: Layer,
    now: Running,
    bound: bool,
) -> str:
    """Why a module runs no kernel now."""
    if layer is None:
        if row.reason == FOREIGN_FORWARD and not now.wrapped:
            return f"another package had set a forward on the instance itself, {_AGAIN}"
        return row.reason
    if now.wrapped:
        return FOREIGN_FORWARD
    if bound:
        return f"its forward was set on the instance after kernelize, {_AGAIN}"
    if swapped_layer(cls) is layer:
        return f"it did not suit the kernel {layer.__name__} when it was last looked at, {_AGAIN}"
    name = original_class(cls).__qualname__
    if name == row.class_name or group is None:
        return f"its class was set to {name} after kernelize, {_AGAIN}"
    return f"its class is {name} now, {_AGAIN}"


def _moved(before: str, now: torch.device) -> bool:
    then = torch.device(before)
    indices = (then.index, now.index)
    return then.type != now.type or (None not in indices and then.index != now.index)
