"""Deciding: for each group of modules, the first candidate that loads, validates and fits.

All groups try their next candidate in the same round, so that what they need from the Hub is
requested at once. A candidate that cannot be used gives way to the next, whatever the reason; only
when none is left does the policy decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs
from torch import nn

from kernels_core.errors import (
    InvalidLayerError,
    LayerModeError,
    LoadError,
    NoFittingBuildError,
    NoKernelError,
)
from kernels_core.hookspecs import Candidate
from kernels_core.layers.candidates import PlannedGroup
from kernels_core.layers.classes import swapped_layer
from kernels_core.layers.fallback import KernelizeFallback, Obstacle
from kernels_core.layers.load import LoadedLayer, Resolutions, load_layer
from kernels_core.layers.report import Outcome, ReportRow
from kernels_core.layers.repositories import name_of
from kernels_core.layers.scan import FOREIGN_FORWARD, Group
from kernels_core.layers.targets import as_obstacle
from kernels_core.layers.validation import (
    check_members,
    check_of_modules,
    check_signature,
    conditions,
    unmet,
)
from kernels_core.layers.watched import class_for
from kernels_core.mode import Mode
from kernels_core.parallel import Cancelled
from kernels_core.plugins.backend import describe


@attrs.frozen(eq=False)
class Decision:
    """What modules of one group get: a layer's forward, or their original one for a reason."""

    planned: PlannedGroup
    cls: type[nn.Module]  # the class that the modules get, which may be the one they have
    loaded: LoadedLayer | None = None  # None when the modules keep their forward
    candidate: Candidate | None = None  # where the layer came from
    obstacles: tuple[Obstacle, ...] = ()  # why other candidates were passed over, or all were
    note: str = ""  # what a user of the chosen kernel must know

    def outcome(self) -> Outcome:
        """What a report says of these modules."""
        return self.row(), self.cls, self.planned.group.modules

    def row(self) -> ReportRow:
        """The row of a report, without the number of modules."""
        # A repository may be mapped at several levels.
        reasons = tuple(dict.fromkeys(obstacle.reason for obstacle in self.obstacles))
        if self.loaded is None or self.candidate is None:
            reason = self.planned.group.kept or "; ".join(reasons)
            return self.planned.make_row(count=0, reason=reason)
        build = self.loaded.build
        return self.planned.make_row(
            count=0,
            kernel=self.loaded.layer.__name__,
            repository=name_of(self.candidate.repository),
            variant=build.variant if build else None,
            commit=build.commit if build else None,
            mode=str(self.candidate.mode),
            passed_over=reasons,
            note=self.note,
        )

    def kept(self, error: Exception) -> Decision:
        """The decision after applying this one failed."""
        obstacle = as_obstacle(KernelizeFallback.CANNOT_LOAD, error)
        group = self.planned.group
        return Decision(self.planned, group.original, obstacles=(*self.obstacles, obstacle))


def decide(
    planned: Iterable[PlannedGroup], mode: Mode, allowed: KernelizeFallback
) -> list[Decision]:
    """Decide for every group, and load the layers; raises where no fallback is allowed."""
    searches = [_Search(one) for one in planned]
    resolutions = Resolutions()
    searching = [one for one in searches if one.next is not None]
    while searching:
        resolutions.resolve_ahead(
            (one.next.repository, one.planned.target)
            for one in searching
            if one.next and one.planned.target
        )
        for one in searching:
            one.try_next(mode, allowed, resolutions)
        searching = [one for one in searching if one.next is not None]
    return [decision for one in searches for decision in one.decisions(allowed)]


class _Search:
    """The search for the kernels of one group."""

    def __init__(self, planned: PlannedGroup) -> None:
        self.planned = planned  # with the modules that have no kernel yet
        self._candidates = iter(planned.candidates)
        self.next = next(self._candidates, None)  # the candidate to try
        self.found: list[Decision] = []
        self.obstacles = list(planned.obstacles)
        self.is_served = False  # whether every module has a kernel

    def try_next(self, mode: Mode, allowed: KernelizeFallback, resolutions: Resolutions) -> None:
        """Try the next candidate, for the modules that have no kernel yet."""
        candidate = self.next
        assert candidate is not None
        name = name_of(candidate.repository)
        try:
            obstacle = self._try(candidate, name, mode, resolutions)
        except NoFittingBuildError as error:
            obstacle = as_obstacle(KernelizeFallback.NO_BUILD, error)
        except InvalidLayerError as error:
            # Nobody said that a bundled layer suits the class, so it is no mistake if it does not.
            is_bundled = id(candidate) in self.planned.bundled
            case = KernelizeFallback.NO_COMPATIBLE_PROPERTIES
            case = case if is_bundled else KernelizeFallback.CANNOT_LOAD
            obstacle = as_obstacle(case, error)
        except Exception as error:
            if allowed != KernelizeFallback.ALL and not isinstance(error, LoadError):
                raise
            obstacle = as_obstacle(KernelizeFallback.CANNOT_LOAD, error, name)
        if obstacle is None:
            self.is_served, self.next = True, None
        else:
            self.obstacles.append(obstacle)
            self.next = next(self._candidates, None)

    def _try(
        self, candidate: Candidate, name: str, mode: Mode, resolutions: Resolutions
    ) -> Obstacle | None:
        planned, group = self.planned, self.planned.group
        assert planned.target is not None
        loaded = load_layer(candidate.repository, planned.target, resolutions)
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
        cls = class_for(group.current, loaded.layer)
        fit, unfit, reason = _by_conditions(group, loaded.layer, name)
        if fit:
            part = planned if not unfit else planned.part(fit)
            passed_over = tuple(self.obstacles)
            self.found.append(Decision(part, cls, loaded, candidate, passed_over, note))
        if not unfit:
            return None
        self.planned = planned.part(unfit)
        return Obstacle(KernelizeFallback.NO_COMPATIBLE_PROPERTIES, f"{name}: {reason}")

    def decisions(self, allowed: KernelizeFallback) -> Iterator[Decision]:
        """What was found, and what the modules without a kernel get."""
        yield from self.found
        if self.is_served:
            return
        group = self.planned.group
        for obstacle in self.obstacles:
            if obstacle.case not in allowed:
                raise _refusal(group, obstacle)
        # A module that another package wrapped is left alone, with the class that it has.
        cls = group.current if group.kept == FOREIGN_FORWARD else group.original
        yield Decision(self.planned, cls, obstacles=tuple(self.obstacles))


def _by_conditions(
    group: Group, layer: type[nn.Module], name: str
) -> tuple[list[nn.Module], list[nn.Module], str]:
    """The modules that meet a layer's conditions, the others, and why not."""
    required = conditions(layer)
    # A module that runs the layer met those on the whole module before.
    is_known = swapped_layer(group.current) is layer
    check = None if is_known else check_of_modules(group.original, layer)
    if not required and check is None:
        return group.modules, [], ""
    try:
        checked = [
            (module, unmet(module, required) or (check(module) if check else ""))
            for module in group.modules
        ]
    except (KeyboardInterrupt, Cancelled):
        raise
    except BaseException as error:  # a condition is foreign code, as what is run on import
        raise InvalidLayerError(
            f"A condition of layer {layer.__name__!r} of {name} raised {describe(error)}",
            repository=name,
            layer=layer.__name__,
            rule="conditions",
        ) from error
    reasons = [reason for _, reason in checked if reason]
    if not reasons:
        return group.modules, [], ""
    fit = [module for module, reason in checked if not reason]
    return fit, [module for module, reason in checked if reason], reasons[0]


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
