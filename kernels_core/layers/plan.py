"""Planning: for each group of modules, the candidates in order, or why there are none.

Reads the mapping and what the backend plugins say of the devices. No I/O, nothing is imported:
the same input gives the same plan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from kernels_core.device import DeviceFacts, DeviceProperties, DeviceRepositories
from kernels_core.errors import (
    BackendNotInstalledError,
    BackendUnavailableError,
    PluginError,
)
from kernels_core.layers.fallback import KernelizeFallback
from kernels_core.layers.mapping import Repositories
from kernels_core.mode import Mode, stand_ins

if TYPE_CHECKING:
    import torch

    from kernels_core.hookspecs import Candidate
    from kernels_core.layers.scan import Group
    from kernels_core.plugins import Backend


@attrs.frozen(eq=False)
class Target:
    """One device, as the backend that serves it knows it.

    Attributes:
        backend: the backend.
        index: index of the device within its torch device type.
        facts: what the device is.
    """

    backend: Backend
    index: int
    facts: DeviceFacts


@attrs.frozen(eq=False)
class Obstacle:
    """Why a layer, or one candidate for it, cannot be used.

    Attributes:
        case: the flag that decides whether a layer may keep its forward because of it.
        reason: the reason, for people.
        error: the exception that stands behind it, if any.
    """

    case: KernelizeFallback
    reason: str
    error: Exception | None = None


@attrs.frozen(eq=False)
class PlannedRow:
    """What is planned for one group.

    Attributes:
        group: the modules.
        target: their device; None when no backend serves it or none is needed.
        candidates: repositories that could serve, best first; empty when there is an obstacle.
        obstacle: why there is no candidate, or None.
    """

    group: Group
    target: Target | None = None
    candidates: tuple[Candidate, ...] = ()
    obstacle: Obstacle | None = None


class Targets:
    """Looks up the target of a torch device: once for each device and `kernelize` call."""

    def __init__(self) -> None:
        self._found: dict[torch.device, Target | Obstacle] = {}

    def require(self, device: torch.device, name: str) -> Target:
        """The target of a device that the user named.

        Args:
            device: the torch device.
            name: the type as the user named it, which may be a backend that torch calls otherwise.

        Raises:
            UnknownDeviceError: no backend knows this type.
            BackendNotInstalledError: the plugin for it is not installed.
            BackendUnavailableError: it is installed and cannot be used here.
        """
        target = self._found[device] = _target(device, name)
        return target

    def find(self, device: torch.device) -> Target | Obstacle:
        """The target of a device that a module's tensors live on, or why it has none.

        Raises:
            UnknownDeviceError: no backend knows this type.
        """
        found = self._found.get(device)
        if found is None:
            found = self._found[device] = self._look_up(device)
        return found

    def _look_up(self, device: torch.device) -> Target | Obstacle:
        if device.type == "meta":
            return Obstacle(
                KernelizeFallback.NO_DEVICE,
                "its tensors are on the meta device, which computes nothing",
            )
        try:
            return _target(device, device.type)
        except (BackendNotInstalledError, BackendUnavailableError, PluginError) as error:
            return Obstacle(KernelizeFallback.NO_DEVICE, str(error), error)


def _target(device: torch.device, name: str) -> Target:
    from kernels_core.plugins import registry

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
    import torch

    index: int | None = device.index
    if index is not None:
        return index
    current = getattr(torch.get_device_module(device.type), "current_device", lambda: 0)()
    return current if isinstance(current, int) else 0


def plan_row(group: Group, mode: Mode, mapping: Repositories, targets: Targets) -> PlannedRow:
    """Plan one group.

    Args:
        group: the modules.
        mode: the requested mode.
        mapping: the mapping to choose from.
        targets: looks up devices.

    Raises:
        UnknownDeviceError: no backend knows the device type.
        PluginError: the backend's plugin broke the contract.
    """
    if group.kept:
        return PlannedRow(group)
    by_type = mapping.get(group.layer_name)
    if by_type is None:
        return _without(
            group,
            KernelizeFallback.NO_LAYER,
            f"the mapping has no layer {group.layer_name!r}",
        )
    target = targets.find(group.device)
    if isinstance(target, Obstacle):
        return PlannedRow(group, obstacle=target)
    name = target.backend.name
    repositories = by_type.get(name)
    if repositories is None:
        return _without(
            group,
            KernelizeFallback.NO_DEVICE,
            f"the mapping has {group.layer_name!r} for {', '.join(sorted(by_type))}, "
            f"not for {name}",
            target,
        )
    return _plan_candidates(group, mode, target, repositories)


def _plan_candidates(
    group: Group, mode: Mode, target: Target, repositories: DeviceRepositories
) -> PlannedRow:
    from kernels_core.hookspecs import SelectionRequest

    key = (target.backend, target.index, mode)
    ranked: tuple[Candidate, ...] | Obstacle | None = repositories.ranked.get(key)
    if ranked is None:
        ranked = repositories.ranked[key] = _rank(target, mode, repositories)
    if isinstance(ranked, Obstacle):
        return PlannedRow(group, target, obstacle=ranked)
    request = SelectionRequest(group.layer_name, mode, target.facts)
    return PlannedRow(group, target, target.backend.select(request, ranked))


def _rank(
    target: Target, mode: Mode, repositories: DeviceRepositories
) -> tuple[Candidate, ...] | Obstacle:
    """What can serve a mode on a device: the most specific entry first, then the order of modes."""
    from kernels_core.hookspecs import Candidate

    fitting, reasons = _fitting_entries(target, repositories)
    if not fitting:
        return Obstacle(
            KernelizeFallback.NO_COMPATIBLE_PROPERTIES,
            f"no entry fits {target.facts.name}: {'; '.join(reasons)}",
        )
    candidates = tuple(
        Candidate(repositories.entries[properties][served], served, properties)
        for properties in fitting
        for served in stand_ins(mode)
        if served in repositories.entries[properties]
    )
    if not candidates:
        there = sorted({str(served) for p in fitting for served in repositories.entries[p]})
        return Obstacle(
            KernelizeFallback.NO_COMPATIBLE_MODE,
            f"nothing is registered that serves {mode}, only {', '.join(there)}",
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


def _without(
    group: Group, case: KernelizeFallback, reason: str, target: Target | None = None
) -> PlannedRow:
    return PlannedRow(group, target, obstacle=Obstacle(case, reason))
