"""`registry()`: the registry of the installed plugins, which are found once per process.

Nothing happens at import. Discovery imports the plugins and calls their declarations; devices are
detected only when a backend has to be selected.
"""

from __future__ import annotations

import importlib
import os
import threading

from kernels_core import environment
from kernels_core.errors import PluginError
from kernels_core.plugins.discovery import discover
from kernels_core.plugins.failures import PluginFailure, name_conflicts
from kernels_core.plugins.registration import load_backend
from kernels_core.plugins.registry import STRICT, Registry


def _load() -> Registry:
    """Discover and load every plugin in isolation, and leave out those that conflict."""
    discovered = discover()
    errors = list(discovered.errors)
    loaded = []
    for found in discovered.plugins:
        try:
            loaded.append(load_backend(found))
        except PluginError as error:
            errors.append(error)
    conflicts = name_conflicts(loaded)
    errors += conflicts.values()
    errors.sort(key=lambda error: (error.plugin, error.distribution))
    if errors and environment.flag(STRICT):
        raise errors[0]
    usable = [backend for backend in loaded if backend not in conflicts]
    return Registry(
        sorted(usable, key=lambda backend: backend.name),
        [PluginFailure.of(error) for error in errors],
        discovered.blocked,
    )


_registry: Registry | None = None
_lock = threading.RLock()
_loading = False


def registry() -> Registry:
    """The registry of this process. The first call discovers and loads the plugins.

    Raises `PluginError` when a plugin failed and `KERNELS_STRICT_PLUGINS` is set.
    """
    return _registry or _load_once()


def _load_once() -> Registry:
    global _registry, _loading
    with _lock:
        if _registry is not None:
            return _registry
        if _loading:
            # Only the thread that holds the lock gets here: from a plugin that is being imported.
            raise RuntimeError(
                "A backend plugin used the registry while the plugins were being loaded: when it "
                "is imported, it must not call kernelize, load kernels or use the registry."
            )
        _loading = True
        try:
            loaded = _registry = _load()
        finally:
            _loading = False
    # Outside the lock and after the fact: a filter may turn warnings into exceptions.
    for failure in loaded.failures:
        failure.warn()
    return loaded


def reset() -> None:
    """Forget the plugins, so that the next use finds those that were installed meanwhile."""
    global _registry
    with _lock:
        _registry = None
    importlib.invalidate_caches()


def _renew_locks_after_fork() -> None:
    """Replace locks that a thread of the parent may have held: no thread would release them."""
    global _lock, _loading
    _lock = threading.RLock()
    _loading = False
    if _registry is not None:
        _registry.renew_locks()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks_after_fork)
