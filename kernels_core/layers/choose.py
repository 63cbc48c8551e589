"""Choosing: go through a row's candidates until one loads, validates and serves the mode."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import attrs

from kernels_core.errors import (
    ApplyError,
    KernelImportError,
    KernelsError,
    LayerModeError,
    LoadError,
    NoFittingBuildError,
    NoKernelError,
)
from kernels_core.layers.classes import kernelized_class, swapped_layer
from kernels_core.layers.fallback import KernelizeFallback
from kernels_core.layers.plan import Obstacle, PlannedRow, Target
from kernels_core.layers.repositories import ResolvableRepository
from kernels_core.layers.resolve import Resolve, resolve_ahead
from kernels_core.layers.scan import FOREIGN_FORWARD
from kernels_core.layers.validation import (
    check_layer,
    check_members,
    check_signature,
    conditions,
    unmet,
)
from kernels_core.mode import Mode

if TYPE_CHECKING:
    from torch import nn

    from kernels_core.hookspecs import Candidate
    from kernels_core.layers.scan import Group
    from kernels_core.plugins import Backend
    from kernels_core.repository.builds import Build


@attrs.frozen(eq=False)
class LoadedLayer:
    """A layer that was loaded and is pure.

    Attributes:
        layer: its class.
        build: the build that it came from; None for a repository that only knows `load`.
    """

    layer: type[nn.Module]
    build: Build | None

    @property
    def has_backward(self) -> bool:
        """Whether it supports training; True unless the layer says otherwise."""
        return getattr(self.layer, "has_backward", True)

    @property
    def can_torch_compile(self) -> bool:
        """Whether it supports torch.compile; False unless the layer says otherwise."""
        return getattr(self.layer, "can_torch_compile", False)

    def lacks(self, mode: Mode) -> str:
        """What a mode needs that the layer does not support, or ""."""
        if mode & Mode.TRAINING and not self.has_backward:
            return "backward"
        if mode & Mode.TORCH_COMPILE and not self.can_torch_compile:
            return "torch.compile"
        return ""


@attrs.frozen(eq=False)
class Choice:
    """What was chosen for one group.

    Attributes:
        row: what was planned.
        cls: the class that the modules get, which may be the one they have.
        loaded: the layer, or None when the modules keep their forward.
        candidate: the candidate that the layer came from, or None.
        reason: why they keep it; "" when there is a layer.
        note: what a user of the chosen kernel must know; mostly "".
    """

    row: PlannedRow
    cls: type[nn.Module]
    loaded: LoadedLayer | None = None
    candidate: Candidate | None = None
    reason: str = ""
    note: str = ""


_loaded: dict[tuple[Any, Backend, int], LoadedLayer] = {}
_loaded_lock = threading.Lock()


def choose(rows: Iterable[PlannedRow], mode: Mode, allowed: KernelizeFallback) -> list[Choice]:
    """Choose the layer for each row: the first of its candidates that works.

    Args:
        rows: the plan.
        mode: the requested mode.
        allowed: the cases in which the modules may keep their forward.

    Raises:
        LayerModeError: an entry is registered for a mode that its layer does not support.
        NoKernelError: there is nothing to choose from, and that case is not allowed.
        LoadError: a candidate could not be loaded, and that case is not allowed.
    """
    rows = list(rows)
    resolve = resolve_ahead(
        (row.candidates[0].repository, row.target)
        for row in rows
        if row.candidates and row.target and not _known(row.candidates[0].repository, row.target)
    )
    return [choice for row in rows for choice in _choose(row, mode, allowed, resolve)]


def _choose(
    row: PlannedRow, mode: Mode, allowed: KernelizeFallback, resolve: Resolve
) -> Iterator[Choice]:
    group = row.group
    if group.kept == FOREIGN_FORWARD:
        yield Choice(row, group.current, reason=group.kept)
        return
    if group.kept:
        yield Choice(row, group.original, reason=group.kept)
        return
    obstacles = [row.obstacle] if row.obstacle else []
    for candidate in row.candidates:
        outcome = _try(candidate, row, mode, resolve)
        if isinstance(outcome, Choice):
            unfit, reason = _unfit(outcome)
            if not unfit:
                yield outcome
                return
            fit = [module for module in row.group.modules if id(module) not in unfit]
            if fit:
                yield attrs.evolve(outcome, row=attrs.evolve(row, group=row.group.part(fit)))
            row = attrs.evolve(row, group=row.group.part(list(unfit.values())))
            outcome = Obstacle(
                KernelizeFallback.NO_COMPATIBLE_PROPERTIES, f"{candidate.repository}: {reason}"
            )
        if outcome.case is KernelizeFallback.CANNOT_LOAD and outcome.case not in allowed:
            assert outcome.error is not None, "a failure to load is always an exception"
            raise outcome.error
        obstacles.append(outcome)
    for obstacle in obstacles:
        if obstacle.case not in allowed:
            raise _refusal(group, obstacle)
    reason = "; ".join(obstacle.reason for obstacle in obstacles)
    yield Choice(row, group.original, reason=reason)


def _unfit(choice: Choice) -> tuple[dict[int, nn.Module], str]:
    """The modules that do not meet the conditions of a layer, and why the first does not."""
    assert choice.loaded is not None
    demanded = conditions(choice.loaded.layer)
    if not demanded:
        return {}, ""
    reasons = {id(module): unmet(module, demanded) for module in choice.row.group.modules}
    unfit = {id(module): module for module in choice.row.group.modules if reasons[id(module)]}
    return unfit, next((reason for reason in reasons.values() if reason), "")


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


def _try(candidate: Candidate, row: PlannedRow, mode: Mode, resolve: Resolve) -> Choice | Obstacle:
    repository: Any = candidate.repository
    name = str(repository)
    assert row.target is not None
    try:
        loaded = _load(repository, row.target, resolve)
        lacking = loaded.lacks(candidate.mode)
        if lacking:
            raise LayerModeError(
                f"{name} is registered for layer {row.group.layer_name!r} with mode "
                f"{candidate.mode}, but its layer {loaded.layer.__name__!r} does not support "
                f"{lacking}. Register it for another mode.",
                repository=name,
                layer=row.group.layer_name,
            )
        lacking = loaded.lacks(mode)
        if lacking:
            return Obstacle(
                KernelizeFallback.NO_COMPATIBLE_MODE, f"{name} does not support {lacking}"
            )
        note = check_signature(loaded.layer, row.group.original, name)
        if swapped_layer(row.group.current) is not loaded.layer:  # else they were checked before
            check_members(row.group.modules, loaded.layer, name)
        cls = kernelized_class(row.group.current, loaded.layer)
    except NoFittingBuildError as error:
        return Obstacle(KernelizeFallback.NO_BUILD, str(error), error)
    except (LoadError, ApplyError) as error:
        return Obstacle(KernelizeFallback.CANNOT_LOAD, str(error), error)
    return Choice(row, cls, loaded, candidate, note=note)


def _known(repository: Any, target: Target) -> LoadedLayer | None:
    try:
        return _loaded.get((repository, target.backend, target.index))
    except TypeError:  # a user's own repository that is not hashable is loaded each time
        return None


def _load(repository: Any, target: Target, resolve: Resolve) -> LoadedLayer:
    known = _known(repository, target)
    if known is not None:
        return known
    loaded = _load_anew(repository, target, resolve)
    with _loaded_lock, contextlib.suppress(TypeError):
        return _loaded.setdefault((repository, target.backend, target.index), loaded)
    return loaded


def _load_anew(repository: Any, target: Target, resolve: Resolve) -> LoadedLayer:
    name = str(repository)
    build = None
    try:
        if isinstance(repository, ResolvableRepository):
            build = resolve(repository, target)
            layer = repository.load_layer(build)
        else:
            layer = repository.load()
    except KernelsError:
        raise
    # A kernel is foreign code: whatever it raises on import, sys.exit() included, is its failure.
    except (Exception, SystemExit) as error:
        raise KernelImportError(
            f"{name} could not be loaded: {type(error).__name__}: {error}", repository=name
        ) from error
    check_layer(layer, repository=name, name=getattr(layer, "__name__", repr(layer)))
    return LoadedLayer(layer, build)
