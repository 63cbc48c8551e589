"""The installed plugin under test, found and loaded as the core does."""

from __future__ import annotations

import importlib
from types import ModuleType

import attrs

from kernels_core.errors import PluginError
from kernels_core.hookspecs import BackendInfo
from kernels_core.plugins.backend import Backend, Hooks
from kernels_core.plugins.discovery import FoundPlugin, PluginSource, discover
from kernels_core.plugins.registration import load_backend, make_hooks

STEPS = ("entry-point", "import", "hooks", "declaration")
"""The rules that a plugin must keep to be loaded at all, in this order."""

_STEP_OF_PHASE = {"import": "import", "register": "hooks", "declare": "declaration"}


class LoadingError(Exception):
    """The plugin cannot be loaded; `step` is the rule of `STEPS` that it breaks."""

    def __init__(self, step: str, problem: str) -> None:
        super().__init__(problem)
        self.step = step


@attrs.frozen
class Subject:
    """A loaded plugin; `hooks` can be called with any arguments, and their results are checked."""

    source: PluginSource
    module: ModuleType
    info: BackendInfo
    hooks: Hooks

    def backend(self) -> Backend:
        """A new facade, which has kept nothing of another machine."""
        return Backend(self.info, self.hooks)


def find(plugin: str) -> FoundPlugin:
    """Find the installed plugin of this name; `LoadingError` unless there is exactly one."""
    discovered = discover()
    found = [candidate for candidate in discovered.plugins if candidate.source.plugin == plugin]
    if len(found) == 1:
        return found[0]
    if found:
        claims = ", ".join(f"{one.entry_point.value} of {one.source.distribution}" for one in found)
        raise LoadingError("entry-point", f"{len(found)} entry points have this name: {claims}.")
    for blocked in discovered.blocked:
        if blocked.plugin == plugin:
            raise LoadingError("entry-point", f"it is disabled: {blocked.reason}.")
    names = ", ".join(sorted({one.source.plugin for one in discovered.plugins})) or "none"
    raise LoadingError("entry-point", f"no entry point has this name; those installed: {names}.")


def load(plugin: str) -> Subject:
    """Find and load the installed plugin of this name; `LoadingError` if the core refuses it."""
    found = find(plugin)
    try:
        backend = load_backend(found)
    except PluginError as error:
        raise LoadingError(_STEP_OF_PHASE[error.phase], str(error)) from error
    module = importlib.import_module(found.entry_point.module)
    return Subject(found.source, module, backend.info, make_hooks(module, found.source))
