"""Loading layers: builds on the Hub are resolved in parallel, and each layer is loaded once."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Iterable
from typing import Any

import attrs
from torch import nn

from kernels_core.errors import (
    EnvironmentVariableError,
    HubOfflineError,
    HubUnreachableError,
    KernelImportError,
    KernelsError,
)
from kernels_core.layers.classes import is_found
from kernels_core.layers.repositories import HubLayer, ResolvableRepository, name_of
from kernels_core.layers.targets import Target
from kernels_core.layers.validation import check_layer
from kernels_core.loading.resolver import OVERRIDES, warm_up
from kernels_core.mode import Mode
from kernels_core.parallel import Cancelled, in_parallel
from kernels_core.plugins import Backend
from kernels_core.plugins.backend import describe
from kernels_core.repository.builds import Build

_Key = tuple[Any, Backend, int]


@attrs.frozen(eq=False)
class LoadedLayer:
    """A layer's class that was loaded and validated."""

    layer: type[nn.Module]
    build: Build | None  # None for a repository that only knows `load`
    is_found: bool  # whether it is found by its name, until its module is reloaded

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

# Models are kernelized at each change of their mode, and without a Hub each would take seconds.
_PAUSE = 60.0  # seconds
# What the Hub did not answer for, until when it is not asked again, and the failure as text, which
# keeps no frames alive.
_unanswered: dict[tuple[_Key, str | None], tuple[float, str, str, str]] = {}


class Resolutions:
    """The builds that one `kernelize` call resolved on the Hub, each of them once."""

    def __init__(self) -> None:
        self._outcomes: dict[_Key, Build | BaseException] = {}

    def resolve_ahead(self, candidates: Iterable[tuple[Any, Target]]) -> None:
        """Resolve those repositories that are on the Hub and not loaded yet, in parallel."""
        new: dict[_Key, None] = {}
        for repository, target in candidates:
            if isinstance(repository, HubLayer) and not _known(repository, target):
                with contextlib.suppress(Exception):  # not hashable: resolved when it is loaded
                    new[repository, target.backend, target.index] = None
        wanted = [key for key in new if key not in self._outcomes]
        if not wanted:
            return
        # Imported here, because only repositories on the Hub need it.
        from kernels_core.hub.patience import one_load

        if len(wanted) > 1:
            warm_up()
        try:
            with one_load():
                self._outcomes.update(zip(wanted, in_parallel(_outcome, wanted), strict=True))
        except EnvironmentVariableError as error:
            self._outcomes.update(dict.fromkeys(wanted, error))

    def build(self, repository: ResolvableRepository, target: Target) -> Build:
        """The build of a repository, or what was raised for it."""
        outcome = None
        if isinstance(repository, HubLayer):
            with contextlib.suppress(Exception):
                outcome = self._outcomes.get((repository, target.backend, target.index))
        if outcome is None:
            return repository.resolve(target.backend, target.index)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def _outcome(key: tuple[HubLayer, Backend, int]) -> Build | BaseException:
    repository, backend, index = key
    question = (key, os.environ.get(OVERRIDES))  # a directory named meanwhile is used at once
    until, *failure = _unanswered.get(question, (0.0, "", "", ""))
    if time.monotonic() < until:
        text, name, request = failure
        return HubUnreachableError(text, repository=name, request=request)
    try:
        return repository.resolve(backend, index)
    except (KeyboardInterrupt, Cancelled):
        raise
    except BaseException as error:
        if isinstance(error, HubUnreachableError) and not isinstance(error, HubOfflineError):
            text = f"{error} kernelize does not ask again within {_PAUSE:.0f} s."
            until = time.monotonic() + _PAUSE
            _unanswered[question] = until, text, error.repository, error.request
        return error


def load_layer(repository: Any, target: Target, resolutions: Resolutions) -> LoadedLayer:
    """Load the layer of a repository for a device, or return the one that was loaded before."""
    known = _known(repository, target)
    if known is not None:
        return known
    loaded = _load(repository, target, resolutions)
    # A user's own repository that cannot be hashed or compared is loaded each time.
    with _loaded_lock, contextlib.suppress(Exception):
        known = _known(repository, target)
        if known is None:
            _loaded[repository, target.backend, target.index] = loaded
        return known or loaded
    return loaded


def _known(repository: Any, target: Target) -> LoadedLayer | None:
    try:
        known = _loaded.get((repository, target.backend, target.index))
    except Exception:
        return None
    return None if known and known.is_found and not is_found(known.layer) else known


def _load(repository: Any, target: Target, resolutions: Resolutions) -> LoadedLayer:
    name = name_of(repository)
    build = None
    try:
        if isinstance(repository, ResolvableRepository):
            build = resolutions.build(repository, target)
            layer = repository.load_layer(build)
        else:
            layer = repository.load()
    except (KernelsError, KeyboardInterrupt, Cancelled):
        raise
    # A kernel is foreign code: whatever it raises on import is its failure, also sys.exit() and a
    # panic in native code, which are no Exception.
    except BaseException as error:
        of = f"{name} (variant {build.variant})" if build else name
        raise KernelImportError(
            f"{of} could not be loaded: {describe(error)}", repository=name
        ) from error
    check_layer(layer, repository=name, name=getattr(layer, "__name__", repr(layer)))
    if build is not None:
        _builds[layer] = build
    return LoadedLayer(layer, build, is_found(layer))


def build_of_layer(layer: type[nn.Module]) -> Build | None:
    """The build that a layer was loaded from; None for one that a user's own repository made."""
    return _builds.get(layer)
