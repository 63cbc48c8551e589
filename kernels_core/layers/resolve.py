"""Resolving the builds that a plan needs: those on the Hub all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from kernels_core.layers.plan import Target
from kernels_core.layers.repositories import (
    LayerRepository,
    LockedLayerRepository,
    ResolvableRepository,
)

if TYPE_CHECKING:
    from kernels_core.repository.builds import Build

Resolve = Callable[[ResolvableRepository, Target], "Build"]

# Each may have a few files on their way at the same time.
_PARALLEL = 16


def resolve_now(repository: ResolvableRepository, target: Target) -> Build:
    """Resolve a repository for a device when it is asked for."""
    return repository.resolve(target.backend, target.index)


def resolve_ahead(wanted: Iterable[tuple[Any, Target]]) -> Resolve:
    """Resolve what lies on the Hub, in parallel.

    Args:
        wanted: repositories, each with the device that it is wanted for.

    Returns:
        What resolves them, and others: it has the build at hand, or the exception. Repositories
        that do not lie on the Hub are resolved when it is called.
    """
    on_hub = {
        (repository, target.backend, target.index): target
        for repository, target in wanted
        if isinstance(repository, (LayerRepository, LockedLayerRepository))
    }
    if len(on_hub) < 2:  # nothing to gain, and no thread for what is not on the Hub
        return resolve_now
    from kernels_core.loading.resolver import warm_up

    warm_up()
    with ThreadPoolExecutor(min(len(on_hub), _PARALLEL), "kernels-resolve") as pool:
        resolved: dict[Any, Future[Build]] = {
            key: pool.submit(resolve_now, key[0], target) for key, target in on_hub.items()
        }

    def resolve(repository: ResolvableRepository, target: Target) -> Build:
        if isinstance(repository, (LayerRepository, LockedLayerRepository)):
            ahead = resolved.get((repository, target.backend, target.index))
            if ahead is not None:
                return ahead.result()
        return resolve_now(repository, target)

    return resolve
