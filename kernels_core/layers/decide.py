"""Deciding: for each group of modules, the first candidate that loads, validates and fits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import attrs
from torch import nn

from kernels_core.errors import (
    ApplyError,
    LayerModeError,
    LoadError,
    NoFittingBuildError,
    NoKernelError,
)
from kernels_core.hookspecs import Candidate
from kernels_core.layers.candidates import PlannedGroup
from kernels_core.layers.classes import kernelized_class, swapped_layer
from kernels_core.layers.fallback import KernelizeFallback, Obstacle
from kernels_core.layers.load import LoadedLayer, Resolve, load_layer, resolve_ahead
from kernels_core.layers.report import ReportRow
from kernels_core.layers.scan import FOREIGN_FORWARD, Group
from kernels_core.layers.validation import (
    check_members,
    check_signature,
    conditions,
    module_conditions,
    unmet,
    unmet_by_module,
)
from kernels_core.mode import Mode


@attrs.frozen(eq=False)
class Decision:
    """What modules of one group get: a layer's forward, or their original one for a reason."""

    planned: PlannedGroup
    cls: type[nn.Module]  # the class that the modules get, which may be the one they have
    loaded: LoadedLayer | None = None  # None when the modules keep their forward
    candidate: Candidate | None = None  # where the layer came from
    reason: str = ""  # why they keep their forward
    note: str = ""  # what a user of the chosen kernel must know

    def row(self) -> ReportRow:
        """The row of a report, without the number of modules."""
        if self.loaded is None or self.candidate is None:
            return self.planned.make_row(count=0, reason=self.reason)
        build = self.loaded.build
        return self.planned.make_row(
            count=0,
            kernel=self.loaded.layer.__name__,
            repository=str(self.candidate.repository),
            variant=build.variant if build else None,
            commit=build.commit if build else None,
            mode=str(self.candidate.mode),
            note=self.note,
        )


def decide(
    planned: Iterable[PlannedGroup], mode: Mode, allowed: KernelizeFallback
) -> list[Decision]:
    """Decide for every group, and load the layers; raises where no fallback is allowed."""
    planned = list(planned)
    resolve = resolve_ahead(
        (one.candidates[0].repository, one.target)
        for one in planned
        if one.candidates and one.target
    )
    return [decision for one in planned for decision in _decide(one, mode, allowed, resolve)]


def _decide(
    planned: PlannedGroup, mode: Mode, allowed: KernelizeFallback, resolve: Resolve
) -> Iterator[Decision]:
    group = planned.group
    if group.kept:
        # A module that another package wrapped is left alone, with the class that it has.
        cls = group.current if group.kept == FOREIGN_FORWARD else group.original
        yield Decision(planned, cls, reason=group.kept)
        return
    obstacles = [planned.obstacle] if planned.obstacle else []
    for candidate in planned.candidates:
        outcome = _try(candidate, planned, mode, resolve)
        if isinstance(outcome, Decision):
            fit, unfit, reason = _by_conditions(outcome)
            if fit is not None:
                yield fit
            if not unfit:
                return
            planned = planned.part(unfit)
            outcome = Obstacle(
                KernelizeFallback.NO_COMPATIBLE_PROPERTIES, f"{candidate.repository}: {reason}"
            )
        if outcome.case is KernelizeFallback.CANNOT_LOAD and outcome.case not in allowed:
            raise _refusal(group, outcome)
        obstacles.append(outcome)
    yield _fall_back(planned, obstacles, allowed)


def _fall_back(
    planned: PlannedGroup, obstacles: list[Obstacle], allowed: KernelizeFallback
) -> Decision:
    for obstacle in obstacles:
        if obstacle.case not in allowed:
            raise _refusal(planned.group, obstacle)
    reason = "; ".join(obstacle.reason for obstacle in obstacles)
    return Decision(planned, planned.group.original, reason=reason)


def _by_conditions(decision: Decision) -> tuple[Decision | None, list[nn.Module], str]:
    """The decision for modules that meet the layer's conditions, the others, and why not."""
    assert decision.loaded is not None
    group, layer = decision.planned.group, decision.loaded.layer
    required = conditions(layer)
    # A module that runs the layer met these before.
    of_module = () if swapped_layer(group.current) is layer else module_conditions(layer)
    if not required and not of_module:
        return decision, [], ""
    checked = [
        (module, unmet(module, required) or unmet_by_module(module, layer, of_module))
        for module in group.modules
    ]
    unfit = [(module, reason) for module, reason in checked if reason]
    if not unfit:
        return decision, [], ""
    fit = [module for module, reason in checked if not reason]
    part = attrs.evolve(decision, planned=decision.planned.part(fit)) if fit else None
    return part, [module for module, _ in unfit], unfit[0][1]


def _refusal(group: Group, obstacle: Obstacle) -> Exception:
    if obstacle.error is not None:
        return obstacle.error
    return NoKernelError(
        f"No kernel for layer {group.layer_name!r} ({group.original.__qualname__}) on "
        f"{group.device}: {obstacle.reason}. Map one, or pass use_fallback=True to keep the "
        f"original forward.",
        layer=group.layer_name,
        reason=obstacle.reason,
    )


def _try(
    candidate: Candidate, planned: PlannedGroup, mode: Mode, resolve: Resolve
) -> Decision | Obstacle:
    group = planned.group
    repository: Any = candidate.repository
    name = str(repository)
    assert planned.target is not None
    try:
        loaded = load_layer(repository, planned.target, resolve)
        lacking = loaded.lacks(candidate.mode)
        if lacking:
            raise LayerModeError(
                f"{name} is registered for layer {group.layer_name!r} with mode "
                f"{candidate.mode}, but its layer {loaded.layer.__name__!r} does not support "
                f"{lacking}. Register it for another mode.",
                repository=name,
                layer=group.layer_name,
            )
        lacking = loaded.lacks(mode)
        if lacking:
            return Obstacle(
                KernelizeFallback.NO_COMPATIBLE_MODE, f"{name} does not support {lacking}"
            )
        note = check_signature(loaded.layer, group.original, name)
        if swapped_layer(group.current) is not loaded.layer:  # else they were checked before
            check_members(group.modules, loaded.layer, name)
        cls = kernelized_class(group.current, loaded.layer)
    except NoFittingBuildError as error:
        return Obstacle(KernelizeFallback.NO_BUILD, str(error), error)
    except (LoadError, ApplyError) as error:
        return Obstacle(KernelizeFallback.CANNOT_LOAD, str(error), error)
    return Decision(planned, cls, loaded, candidate, note=note)
