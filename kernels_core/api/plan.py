"""`plan` and `Plan`: what `kernelize` would do to a model, and doing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from kernels_core.device import Device
from kernels_core.errors import StalePlanError
from kernels_core.layers.copying import refer_by_name
from kernels_core.layers.fallback import KernelizeFallback, allowed_cases
from kernels_core.layers.mapping import KernelMapping, Levels, current_mapping, normalized
from kernels_core.layers.report import (
    KernelizeReport,
    ReportRow,
    make_report,
    rows_to_dict,
    table,
)
from kernels_core.layers.report_now import report
from kernels_core.layers.swap import refused, replace
from kernels_core.mode import Mode, serving_modes

if TYPE_CHECKING:
    import torch
    from torch import nn

    from kernels_core.layers.candidates import PlannedGroup
    from kernels_core.layers.decide import Decision
    from kernels_core.layers.swap import Change


@attrs.frozen(eq=False)
class Plan:
    """What `kernelize` would do to a model: nothing is loaded and nothing changed yet.

    Attributes:
        model: the model.
        mode: the requested mode.
    """

    model: nn.Module
    mode: Mode
    _allowed: KernelizeFallback
    _groups: tuple[PlannedGroup, ...]
    _takes_bundled: bool  # whether bundled kernels could be used with the mapping

    @property
    def rows(self) -> tuple[ReportRow, ...]:
        """One row per distinct class, layer name and device, with its candidates in order."""
        return tuple(group.row() for group in self._groups)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data, ready for JSON."""
        return rows_to_dict(self.mode, self.rows)

    def __str__(self) -> str:
        return table(self.rows)

    def apply(self) -> KernelizeReport:
        """Load what the plan needs and replace the forwards, all of them or none.

        Returns:
            The report: which kernel each layer runs, or why it has none; also returned by
            `kernels_core.report(model)`.

        Raises:
            StalePlanError: the model's layers were changed since it was planned.
            LayerModeError: an entry is registered for a mode that its layer does not support.
            NoKernelError: a layer has no compatible kernel, and that is not allowed.
            LoadError: a kernel could not be loaded, and that is not allowed.
        """
        apply_plan(self)
        return report(self.model)


def plan(
    model: nn.Module,
    *,
    mode: Mode,
    device: str | torch.device | Device | None = None,
    use_fallback: bool | KernelizeFallback = True,
    mapping: KernelMapping | None = None,
    bundled: bool | None = None,
) -> Plan:
    """Plan what `kernelize` would do, without loading or changing anything.

    Args:
        model: as for `kernelize`.
        mode: as for `kernelize`.
        device: as for `kernelize`.
        use_fallback: as for `kernelize`.
        mapping: as for `kernelize`.
        bundled: as for `kernelize`.

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
    check_model(model)
    # Imported here, so that `kernelize` and `plan` can be imported without torch.
    from kernels_core.layers.candidates import plan_groups

    if not isinstance(mode, Mode):
        raise TypeError(f"mode must be a Mode such as Mode.INFERENCE, got {mode!r}.")
    serving_modes(mode)
    allowed = allowed_cases(use_fallback)
    if bundled is not None and not isinstance(bundled, bool):
        raise TypeError(f"bundled must be True, False or None, got {bundled!r}.")
    levels = current_mapping() if mapping is None else Levels((normalized(mapping),))
    groups = plan_groups(model, mode, device, levels, bundled, allowed)
    return Plan(model, mode, allowed, groups, levels.takes_bundled)


def check_model(model: object) -> None:
    """Raise TypeError for anything but an nn.Module."""
    # Imported here, because declaring layers must not import importlib.metadata.
    from kernels_core.host import import_torch

    module: type | tuple[()] = ()
    if import_torch() is not None:
        from torch import nn

        module = nn.Module
    if not isinstance(model, module):
        raise TypeError(f"model must be a torch.nn.Module, got {model!r}.")


def apply_plan(plan: Plan) -> None:
    """Apply a plan."""
    from kernels_core.layers.decide import decide

    decisions = decide(plan._groups, plan.mode, plan._allowed)
    try:
        _apply(plan, decisions)
    except StalePlanError:
        raise
    except Exception:
        if plan._allowed != KernelizeFallback.ALL:
            raise
        _apply(plan, [_unless_refused(decision) for decision in decisions])


def _apply(plan: Plan, decisions: list[Decision]) -> None:
    from kernels_core.layers.advice import advise

    advise(plan.model, decisions, plan._takes_bundled)
    made = make_report(plan.model, plan.mode, (one.outcome() for one in decisions))
    for planned in plan._groups:
        if planned.group.reference:
            refer_by_name(planned.group.original, planned.group.reference)
    classes = [_change(one) for one in decisions]
    replace(plan.model, [change for change in classes if change[0] is not change[1]], made)


def _change(decision: Decision) -> Change:
    group = decision.planned.group
    return group.current, decision.cls, group.modules


def _unless_refused(decision: Decision) -> Decision:
    """The decision, or to keep the forward of modules that refuse another class."""
    error = refused(_change(decision))
    return decision if error is None else decision.kept(error)


def planned_modules(plan: Plan) -> list[tuple[type[nn.Module], list[nn.Module]]]:
    """The modules that a plan is about, by the class that they have before it is applied."""
    return [(one.group.current, one.group.modules) for one in plan._groups]
