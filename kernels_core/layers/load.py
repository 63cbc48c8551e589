"""Loading layers: builds on the Hub are resolved in parallel, and each layer is loaded once."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import attrs
from torch import nn

from kernels_core.errors import KernelImportError, KernelsError
from kernels_core.hub.patience import one_load
from kernels_core.layers.repositories import HubLayer, ResolvableRepository
from kernels_core.layers.targets import Target
from kernels_core.layers.validation import check_layer
from kernels_core.loading.resolver import warm_up
from kernels_core.mode import Mode
from kernels_core.parallel import in_parallel
from kernels_core.plugins import Backend
from kernels_core.repository.builds import Build

Resolve = Callable[[ResolvableRepository, Target], Build]

_Key = tuple[Any, Backend, int]


@attrs.frozen(eq=False)
class LoadedLayer:
    """A layer's class that was loaded and validated."""

    layer: type[nn.Module]
    build: Build | None  # None for a repository that only knows `load`

    def lacks(self, mode: Mode) -> str:
        """What a mode needs that the layer does not support, or ""."""
        if mode & Mode.TRAINING and not getattr(self.layer, "has_backward", True):
            return "backward"
        if mode & Mode.TORCH_COMPILE and not getattr(self.layer, "can_torch_compile", False):
            return "torch.compile"
        return ""


_loaded: dict[_Key, LoadedLayer] = {}
_loaded_lock = threading.Lock()
# By layer, the build that it was loaded from.
_builds: weakref.WeakKeyDictionary[type[nn.Module], Build] = weakref.WeakKeyDictionary()


@one_load()
def resolve_ahead(candidates: Iterable[tuple[Any, Target]]) -> Resolve:
    """Resolve those repositories that are on the Hub and not loaded yet, in parallel.

    The returned function returns these builds, or raises what was raised for the one repository,
    and resolves all other repositories when it is called.
    """
    on_hub = dict.fromkeys(
        (repository, target.backend, target.index)
        for repository, target in candidates
        if isinstance(repository, HubLayer) and not _known(repository, target)
    )
    if len(on_hub) < 2:
        return _resolve
    warm_up()
    resolved = dict(zip(on_hub, in_parallel(_outcome, on_hub), strict=True))

    def resolve(repository: ResolvableRepository, target: Target) -> Build:
        outcome = None
        if isinstance(repository, HubLayer):
            outcome = resolved.get((repository, target.backend, target.index))
        if outcome is None:
            return _resolve(repository, target)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return resolve


def _resolve(repository: ResolvableRepository, target: Target) -> Build:
    return repository.resolve(target.backend, target.index)


def _outcome(key: tuple[HubLayer, Backend, int]) -> Build | BaseException:
    repository, backend, index = key
    try:
        return repository.resolve(backend, index)
    except (Exception, SystemExit) as error:
        return error


def load_layer(repository: Any, target: Target, resolve: Resolve) -> LoadedLayer:
    """Load the layer of a repository for a device, or return the one that was loaded before."""
    known = _known(repository, target)
    if known is not None:
        return known
    loaded = _load(repository, target, resolve)
    with _loaded_lock, contextlib.suppress(TypeError):
        return _loaded.setdefault((repository, target.backend, target.index), loaded)
    return loaded


def _known(repository: Any, target: Target) -> LoadedLayer | None:
    try:
        return _loaded.get((repository, target.backend, target.index))
    except TypeError:  # a user's own repository that is not hashable is loaded each time
        return None


def _load(repository: Any, target: Target, resolve: Resolve) -> LoadedLayer:
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
    if build is not None:
        _builds[layer] = build
    return LoadedLayer(layer, build)


def build_of_layer(layer: type[nn.Module]) -> Build | None:
    """The build that a layer was loaded from; None for one that a user's own repository made."""
    return _builds.get(layer)
