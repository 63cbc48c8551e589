"""Turn an entry point into a `Backend`: import it, validate its hooks, call its declaration.

pluggy validates the hooks. Every plugin gets a plugin manager of its own, so no call can reach two
plugins, and a plugin that is refused leaves nothing behind.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pluggy

from kernels_core import hookspecs
from kernels_core.device import Device, DeviceFacts, DeviceProperties
from kernels_core.errors import PluginError
from kernels_core.hookspecs import API_VERSION, BackendInfo
from kernels_core.plugins.backend import Backend, Hooks, describe
from kernels_core.plugins.discovery import FoundPlugin, PluginSource

REQUIRED_HOOKS = (
    "kernels_backend",
    "kernels_detect",
    "kernels_device_facts",
    "kernels_parse_tag",
    "kernels_match_tag",
)

# Builds called `torch-universal` fit every backend.
_RESERVED_NOARCH_NAME = "universal"


def load_backend(found: FoundPlugin) -> Backend:
    """Import a plugin and make its backend; a `PluginError` has the failed step as its phase."""
    source = found.source
    try:
        plugin = found.entry_point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit, or a panic in native code
        raise source.error(
            "import", f"importing {found.entry_point.value!r} raised {describe(error)}."
        ) from error
    if not isinstance(plugin, ModuleType):
        raise source.error(
            "import",
            f"a plugin must be a module, but {found.entry_point.value!r} is of type "
            f"{type(plugin).__name__}: name only the module, as in "
            f"`{source.plugin} = 'package.plugin'`.",
        )
    return make_backend(plugin, source)


def make_backend(plugin: ModuleType, source: PluginSource) -> Backend:
    """Make the backend of an imported plugin module."""
    hooks = make_hooks(plugin, source)
    assert hooks.info is not None
    return Backend(hooks.info, hooks)


def make_hooks(plugin: ModuleType, source: PluginSource) -> Hooks:
    """Bind the hooks of an imported plugin module and call its declaration."""
    try:
        hooks = Hooks(source, _hook_functions(plugin, source))
    except PluginError:
        raise
    except Exception as error:  # pluggy refuses it, or it cannot be inspected
        raise source.error("register", f"{describe(error)}.") from error
    hooks.info = hooks.call("kernels_backend", BackendInfo)
    _check_declaration(hooks.info, hooks)
    return hooks


def _hook_functions(plugin: ModuleType, source: PluginSource) -> dict[str, Callable[..., object]]:
    manager = pluggy.PluginManager(hookspecs.PROJECT_NAME)
    manager.add_hookspecs(hookspecs)
    known = [name for name in vars(hookspecs) if manager.parse_hookspec_opts(hookspecs, name)]
    problem = _problem_with_names(plugin, manager, known)
    if problem:
        raise source.error("register", problem)
    manager.register(plugin, source.plugin)
    functions = {}
    for hook in known:
        caller: pluggy.HookCaller = getattr(manager.hook, hook)
        implementations = caller.get_hookimpls()
        if len(implementations) > 1:
            raise source.error("register", f"{hook} is implemented more than once: keep one.")
        if implementations:
            functions[hook] = _bind(hook, caller, implementations[0], source)
    missing = [hook for hook in REQUIRED_HOOKS if hook not in functions]
    if missing:
        subject = "hooks are" if len(missing) > 1 else "a hook is"
        raise source.error(
            "register",
            f"{subject} missing: implement {', '.join(missing)} with @hookimpl.",
        )
    return functions


def _problem_with_names(plugin: ModuleType, manager: pluggy.PluginManager, known: list[str]) -> str:
    for name in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, name)
        if options is None:
            if name in known:
                return f"{name} is not a function marked with @hookimpl: mark it, or rename it."
            continue
        hook = options.get("specname") or name
        # With pluggy's `optionalhook`, a plugin implements hooks that only newer cores have.
        if hook not in known and not options.get("optionalhook"):
            close = difflib.get_close_matches(hook, known, n=1)
            advice = f"did you mean {close[0]}?" if close else f"the hooks are {', '.join(known)}."
            return f"{hook} is not a hook of API version {API_VERSION}: {advice}"
        if options.get("wrapper") or options.get("hookwrapper"):
            return f"{hook} is a hook wrapper, which plugins cannot be: remove `wrapper`."
    return ""


def _bind(
    hook: str, caller: pluggy.HookCaller, implementation: pluggy.HookImpl, source: PluginSource
) -> Callable[..., object]:
    """The implementation as a function of all arguments of the hook, in order."""
    assert caller.spec is not None
    specified = caller.spec.argnames
    function = implementation.function
    defaulted = [name for name in implementation.kwargnames if name in specified]
    if defaulted:
        # pluggy never passes arguments that have a default: the plugin would miss them silently.
        raise source.error(
            "register",
            f"{hook} has a default for {defaulted[0]!r}, which is always passed: remove it.",
        )
    positions = [specified.index(name) for name in implementation.argnames]
    if positions == list(range(len(specified))):
        return function

    def with_its_own_arguments(*arguments: Any) -> object:
        return function(*map(arguments.__getitem__, positions))

    return with_its_own_arguments


def _check_declaration(info: BackendInfo, hooks: Hooks) -> None:
    hook = "kernels_backend"
    if info.api_version != API_VERSION:
        older = "the plugin" if info.api_version < API_VERSION else "kernels-core"
        raise hooks.error(
            hook,
            f"declares API version {info.api_version}, but this kernels-core supports "
            f"{API_VERSION}: upgrade {older}.",
        )
    for attribute in ("name", "torch_device_type", "noarch_name"):
        try:
            Device(getattr(info, attribute))
        except ValueError:
            raise hooks.wrong(
                hook,
                f"must declare a lower-case identifier as {attribute}",
                getattr(info, attribute),
            ) from None
    if info.noarch_name == _RESERVED_NOARCH_NAME:
        raise hooks.error(
            hook,
            f"must not declare noarch_name {info.noarch_name!r}: it is reserved.",
        )
    _check_kind(info.facts, DeviceFacts, "facts", hooks)
    for kind in info.properties:
        _check_kind(kind, DeviceProperties, "properties", hooks)


def _check_kind(kind: object, base: type, attribute: str, hooks: Hooks) -> None:
    if not isinstance(kind, type) or not issubclass(kind, base):
        raise hooks.wrong(
            "kernels_backend", f"must declare subclasses of {base.__name__} as {attribute}", kind
        )
