"""For each group of modules: the candidates in order, or why there are none.

Reads the mapping, and the facts that backend plugins report about devices. There is no I/O, and no
kernel is imported: the same input gives the same candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import attrs
import torch
from torch import nn

from kernels_core import environment, notices
from kernels_core.device import Device, DeviceProperties, DeviceRepositories
from kernels_core.errors import MissingDeviceError
from kernels_core.hookspecs import Candidate, SelectionRequest
from kernels_core.layers.fallback import KernelizeFallback, Obstacle
from kernels_core.layers.mapping import Level, Levels, is_bundled, levels_to_search
from kernels_core.layers.report import ReportRow
from kernels_core.layers.repositories import name_of
from kernels_core.layers.scan import Group, scan
from kernels_core.layers.targets import Target, Targets, as_obstacle
from kernels_core.mode import Mode, serving_modes
from kernels_core.plugins.backend import describe

T = TypeVar("T")

SWITCHED_OFF = "DISABLE_KERNEL_MAPPING is set"
_FUNCTION_NOTE = "one function for the whole process"


@attrs.frozen(eq=False)
class PlannedGroup:
    """A group of modules and what could replace their forward."""

    group: Group
    device: str
    target: Target | None = None  # None if no backend serves the device, or none is needed
    candidates: tuple[Candidate, ...] = ()  # best first
    obstacles: tuple[Obstacle, ...] = ()  # why there is no candidate
    bundled: frozenset[int] = frozenset()  # ids of the candidates that no user mapped

    def part(self, modules: list[nn.Module]) -> PlannedGroup:
        """This group with only some of its modules."""
        return attrs.evolve(self, group=self.group.part(modules))

    def row(self) -> ReportRow:
        """The row of a plan."""
        return self.make_row(
            count=len(self.group.modules),
            candidates=tuple(f"{name_of(one.repository)} ({one.mode})" for one in self.candidates),
            reason=self.group.kept or "; ".join(one.reason for one in self.obstacles),
        )

    def make_row(self, *, note: str = "", **decision: Any) -> ReportRow:
        """A row about these modules, with what was decided."""
        notes = (note, _FUNCTION_NOTE if self.group.function else "")
        return ReportRow(
            layer_name=self.group.layer_name,
            class_name=self.group.function or self.group.original.__qualname__,
            device=self.device,
            backend=self.target.backend.name if self.target else None,
            note="; ".join(note for note in notes if note),
            **decision,
        )


def plan_groups(
    model: nn.Module,
    mode: Mode,
    device: str | torch.device | Device | None,
    mapping: Levels,
    bundled: bool | None,
    allowed: KernelizeFallback,
) -> tuple[PlannedGroup, ...]:
    """Find the groups of extensible modules in a model, and the candidates for each.

    With `KernelizeFallback.ALL`, only a malformed `device` raises.
    """
    total = allowed == KernelizeFallback.ALL
    targets = Targets(total)
    given = targets.given(device)
    try:
        groups = scan(model, given)
    except MissingDeviceError as error:
        if not total:
            raise
        groups = scan(model, targets.refuse(error, "unknown"))
    except Exception as error:
        if not total:
            raise
        name = type(model).__qualname__
        text = f"kernelize keeps every forward of {name}: its modules cannot be read"
        notices.say_once(("unreadable", name), f"{text} ({describe(error)}).")
        return ()
    for group in groups:
        if group.error is not None and not total:
            raise group.error
    levels = _attempt(lambda: _levels(mapping, bundled), total)
    planned = []
    for group in groups:
        found: PlannedGroup | Obstacle
        if isinstance(levels, Obstacle):
            found = levels
        else:
            found = _attempt(partial(_plan, group, mode, levels, targets), total)
        planned.append(_kept(group, targets, found) if isinstance(found, Obstacle) else found)
    # Users may keep a plan, and frames keep alive what their functions had in variables.
    for one in planned:
        for kept in (one.group.error, *(obstacle.error for obstacle in one.obstacles)):
            _drop_frames(kept)
    return tuple(planned)


def _drop_frames(error: BaseException | None) -> None:
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _levels(mapping: Levels, bundled: bool | None) -> tuple[Level, ...] | None:
    """The levels to search; None if kernelization is switched off."""
    if environment.flag("DISABLE_KERNEL_MAPPING"):
        return None
    return levels_to_search(mapping, bundled)


def _attempt(work: Callable[[], T], total: bool) -> T | Obstacle:
    """Do something that may fail; with `total`, an exception becomes an obstacle."""
    try:
        return work()
    except Exception as error:
        if not total:
            raise
        return as_obstacle(KernelizeFallback.CANNOT_LOAD, error)


def _kept(group: Group, targets: Targets, obstacle: Obstacle) -> PlannedGroup:
    return PlannedGroup(group, targets.name(group.device), obstacles=(obstacle,))


def _plan(
    group: Group, mode: Mode, levels: tuple[Level, ...] | None, targets: Targets
) -> PlannedGroup:
    device = targets.name(group.device)
    if levels is None:
        group.kept = group.kept or SWITCHED_OFF
    if group.kept or levels is None:
        return PlannedGroup(group, device)
    named = [
        (level[group.layer_name], is_bundled(level))
        for level in levels
        if group.layer_name in level
    ]
    if not named:
        reason = f"the mapping has no layer {group.layer_name!r}"
        return _kept(group, targets, Obstacle(KernelizeFallback.NO_LAYER, reason))
    target = targets.find(group.device)
    if isinstance(target, Obstacle):
        return _kept(group, targets, target)
    name = target.backend.name
    found = []
    bundled: frozenset[int] = frozenset()
    for by_type, comes_bundled in named:
        if name in by_type:
            found.append(_ranked(target, mode, by_type[name], group.layer_name))
            if comes_bundled and isinstance(found[-1], tuple):
                bundled = frozenset(map(id, found[-1]))
    ranked = [one for one in found if isinstance(one, tuple)]
    # One level is the common case, and its candidates may be a thousand.
    candidates = ranked[0] if len(ranked) == 1 else tuple(chain.from_iterable(ranked))
    obstacles = tuple(one for one in found if isinstance(one, Obstacle))
    if not found:
        types = ", ".join(sorted({of_type for by_type, _ in named for of_type in by_type}))
        reason = f"the mapping has {group.layer_name!r} for {types}, not for {name}"
        obstacles = (Obstacle(KernelizeFallback.NO_DEVICE, reason),)
    obstacles = () if candidates else obstacles
    return PlannedGroup(group, device, target, candidates, obstacles, bundled)


def _ranked(
    target: Target, mode: Mode, repositories: DeviceRepositories, layer_name: str
) -> tuple[Candidate, ...] | Obstacle:
    """The candidates in one level, in the order that the backend's plugin gives them."""
    key = (target.backend, target.index, mode)
    ranked: tuple[Candidate, ...] | Obstacle | None = repositories.ranked.get(key)
    if ranked is None:
        ranked = repositories.ranked[key] = _rank(target, mode, repositories)
    if isinstance(ranked, Obstacle):
        return ranked
    return target.backend.select(SelectionRequest(layer_name, mode, target.facts), ranked)


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
        Candidate(repository, served, properties)
        for properties in fitting
        for served in serving_modes(mode)
        for repository in repositories.entries[properties].get(served, ())
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
