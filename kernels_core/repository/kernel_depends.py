"""Walking over kernels and the kernels that they need."""

from __future__ import annotations

import graphlib
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TypeVar

from kernels_core.errors import DependencyCycleError
from kernels_core.parallel import in_parallel

# More kernels than any kernel needs; one that needs more is broken or malicious.
MOST_DEPENDENCIES = 50

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


def walk(
    kernels: Iterable[K],
    visit: Callable[[K], tuple[R, Iterable[K]]],
    *,
    needed_by: str,
    limit: int = MOST_DEPENDENCIES,
) -> dict[K, R]:
    """Visit kernels and all that they need, each once: breadth first, each level in parallel.

    `visit` returns what to keep of a kernel, and which kernels it needs. Cycles are no problem
    here, see `needed_first`; more kernels than the limit are a DependencyCycleError.
    """
    found: dict[K, R] = {}
    level = list(dict.fromkeys(kernels))
    while level:
        if len(found) + len(level) > limit:
            raise DependencyCycleError(
                f"{needed_by} needs more than {limit} kernels.", repository=needed_by, missing=()
            )
        visited = in_parallel(visit, level)
        found |= {kernel: kept for kernel, (kept, _) in zip(level, visited, strict=True)}
        needed = dict.fromkeys(kernel for _, needs in visited for kernel in needs)
        level = [kernel for kernel in needed if kernel not in found]
    return found


def needed_first(
    needs: Mapping[K, Iterable[K]], repository: Callable[[K], str], text: Callable[[K], str]
) -> list[K]:
    """Sort kernels so that each comes after those that it needs; a cycle is an error.

    The callables say to which repository a kernel belongs, and what errors call it.
    """
    try:
        return list(graphlib.TopologicalSorter(needs).static_order())
    except graphlib.CycleError as error:
        # Each is needed by the next one, and the last is the first again.
        circle = error.args[1][:0:-1]
        start = min(range(len(circle)), key=lambda index: list(needs).index(circle[index]))
        circle = [*circle[start:], *circle[: start + 1]]
        raise DependencyCycleError(
            f"Kernels depend on each other in a cycle: {' -> '.join(map(text, circle))}.",
            repository=repository(circle[0]),
            missing=(),
        ) from None
