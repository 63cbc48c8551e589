"""For each group of modules: the candidates in order, or why there are none.

Reads the mapping, and the facts that backend plugins report about devices. There is no I/O, and no
kernel is imported: the same input gives the same candidates.
"""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import nn

from kernels_core import environment
from kernels_core.device import Device, DeviceProperties, DeviceRepositories
from kernels_core.hookspecs import Candidate, SelectionRequest
from kernels_core.layers.fallback import KernelizeFallback, Obstacle
from kernels_core.layers.mapping import Repositories
from kernels_core.layers.report import ReportRow
from kernels_core.layers.scan import Group, scan
from kernels_core.layers.targets import Target, Targets
from kernels_core.mode import Mode, serving_modes

_FUNCTION_NOTE = "one function for the whole process"


@attrs.frozen(eq=False)
class PlannedGroup:
    """A group of modules and what could replace their forward."""

    group: Group
    target: Target | None = None  # None if no backend serves the device, or none is needed
    candidates: tuple[Candidate, ...] = ()  # best first
    obstacle: Obstacle | None = None  # why there is no candidate

    def part(self, modules: list[nn.Module]) -> PlannedGroup:
        """This group with only some of its modules."""
        return attrs.evolve(self, group=self.group.part(modules))

    def row(self) -> ReportRow:
        """The row of a plan."""
        return self.make_row(
            count=len(self.group.modules),
            candidates=tuple(f"{one.repository} ({one.mode})" for one in self.candidates),
            reason=self.group.kept or (self.obstacle.reason if self.obstacle else ""),
        )

    def make_row(self, *, note: str = "", **decision: Any) -> ReportRow:
        """A row about these modules, with what was decided."""
        notes = (note, _FUNCTION_NOTE if self.group.function else "")
        return ReportRow(
            layer_name=self.group.layer_name,
            class_name=self.group.function or self.group.original.__qualname__,
            device=str(self.group.device),
            backend=self.target.backend.name if self.target else None,
            note="; ".join(note for note in notes if note),
            **decision,
        )


def plan_groups(
    model: nn.Module, mode: Mode, device: str | torch.device | Device | None, mapping: Repositories
) -> tuple[PlannedGroup, ...]:
    """Find the groups of extensible modules in a model, and the candidates for each."""
    targets = Targets()
    groups = scan(model, targets.given(device))
    if environment.flag("DISABLE_KERNEL_MAPPING"):
        for group in groups:
            group.kept = group.kept or "DISABLE_KERNEL_MAPPING is set"
    return tuple(_plan(group, mode, mapping, targets) for group in groups)


def _plan(group: Group, mode: Mode, mapping: Repositories, targets: Targets) -> PlannedGroup:
    if group.kept:
        return PlannedGroup(group)
    by_type = mapping.get(group.layer_name)
    if by_type is None:
        reason = f"the mapping has no layer {group.layer_name!r}"
        return PlannedGroup(group, obstacle=Obstacle(KernelizeFallback.NO_LAYER, reason))
    target = targets.find(group.device)
    if isinstance(target, Obstacle):
        return PlannedGroup(group, obstacle=target)
    name = target.backend.name
    repositories = by_type.get(name)
    if repositories is None:
        reason = (
            f"the mapping has {group.layer_name!r} for {', '.join(sorted(by_type))}, not for {name}"
        )
        return PlannedGroup(group, target, obstacle=Obstacle(KernelizeFallback.NO_DEVICE, reason))
    ranked = _ranked(target, mode, repositories)
    if isinstance(ranked, Obstacle):
        return PlannedGroup(group, target, obstacle=ranked)
    request = SelectionRequest(group.layer_name, mode, target.facts)
    return PlannedGroup(group, target, target.backend.select(request, ranked))


def _ranked(
    target: Target, mode: Mode, repositories: DeviceRepositories
) -> tuple[Candidate, ...] | Obstacle:
    key = (target.backend, target.index, mode)
    ranked: tuple[Candidate, ...] | Obstacle | None = repositories.ranked.get(key)
    if ranked is None:
        ranked = repositories.ranked[key] = _rank(target, mode, repositories)
    return ranked


def _rank(
    target: Target, mode: Mode, repositories: DeviceRepositories
) -> tuple[Candidate, ...] | Obstacle:
    """What can serve a mode on a device: the most specific entry first, then the order of modes."""
    fitting, reasons = _fitting_entries(target, repositories)
    if not fitting:
        return Obstacle(
            KernelizeFallback.NO_COMPATIBLE_PROPERTIES,
            f"no entry fits {target.facts.name}: {'; '.join(reasons)}",
        )
    candidates = tuple(
        Candidate(repositories.entries[properties][served], served, properties)
        for properties in fitting
        for served in serving_modes(mode)
        if served in repositories.entries[properties]
    )
    if not candidates:
        registered = sorted({str(served) for p in fitting for served in repositories.entries[p]})
        return Obstacle(
            KernelizeFallback.NO_COMPATIBLE_MODE,
            f"no entry serves {mode}; there are entries for {', '.join(registered)}",
        )
    return candidates


def _fitting_entries(
    target: Target, repositories: DeviceRepositories
) -> tuple[list[DeviceProperties | None], list[str]]:
    """The properties that the device fulfils, most specific first, and why others do not fit."""
    fitting = []
    reasons = []
    for properties in repositories.entries:
        match = target.backend.match_device(properties, target.facts)
        if match.fits:
            fitting.append((match.rank, properties))
        else:
            reasons.append(f"{properties}: {match.reason}")
    # Stable: of two that are equally specific, the one registered first.
    fitting.sort(key=lambda pair: pair[0], reverse=True)
    return [properties for _, properties in fitting], reasons
