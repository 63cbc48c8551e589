"""What a plugin does in separate processes. Runs in them, without pytest."""

from __future__ import annotations

import contextlib
import importlib
import pickle
import sys
from collections.abc import Sequence
from typing import Any
from unittest import mock

import attrs

from kernels_core import hookspecs
from kernels_core.device import DeviceFacts
from kernels_core.errors import PluginError
from kernels_core.hookspecs import BackendInfo, Detection
from kernels_core.host import HostInfo, host_info, import_torch
from kernels_core.plugins import registry
from kernels_core.plugins.backend import Backend, Hooks
from kernels_core.testing.processes import ProcessError, can_fork, run_forked
from kernels_core.testing.questions import ask
from kernels_core.testing.subject import find, load

_FUTURE_VERSION = 1_000_000


@attrs.frozen
class Fresh:
    """What a plugin did in a new process.

    Attributes:
        importers: what imported torch but must not.
        copies_version: whether it declares the core's API version instead of its own.
        info: what it declared; None when it copies the version.
        without_torch: how detection failed without torch; "" if it did not.
        answers: the results of the hook calls.
    """

    importers: tuple[str, ...]
    copies_version: bool
    info: BackendInfo | None = None
    without_torch: str = ""
    answers: tuple[object, ...] = ()


def in_fresh_process(plugin: str, hosts: Sequence[HostInfo], questions: bytes) -> Fresh:
    """Observe a plugin in a process in which nothing has imported torch.

    The hook calls are pickled: unpickling them imports the plugin, which must happen later.
    """
    importers: list[str] = []

    def note(name: str) -> None:
        if "torch" in sys.modules and not importers:
            importers.append(name)

    entry_point = find(plugin).entry_point
    with mock.patch.object(hookspecs, "API_VERSION", _FUTURE_VERSION):
        module = entry_point.load()
        note(f"importing {entry_point.value}")
        copies_version = module.kernels_backend().api_version == _FUTURE_VERSION
        note("kernels_backend")
    if copies_version:
        return Fresh(tuple(importers), copies_version)
    subject = load(plugin)
    backend, hooks = subject.backend(), subject.hooks
    for hook, call in (
        ("kernels_parse_tag", lambda: backend.parse_tag(backend.name)),
        ("kernels_bundled", backend.bundled),
    ):
        with contextlib.suppress(PluginError):  # other rules are about that
            call()
        note(hook)
    answers = tuple(ask(backend, hooks, question) for question in pickle.loads(questions))
    return Fresh(
        tuple(importers), copies_version, subject.info, _without_torch(hooks, hosts), answers
    )


def _without_torch(hooks: Hooks, hosts: Sequence[HostInfo]) -> str:
    with mock.patch.dict(sys.modules, {"torch": None}):
        with mock.patch("kernels_core.host._torch_info", return_value=None):
            here = host_info.__wrapped__()
        for host in (here, *hosts):
            try:
                hooks.call("kernels_detect", Detection, attrs.evolve(host, torch=None))
            except PluginError as error:
                return f"on {host.os} {host.cpu}, {error}"
    return ""


@attrs.frozen
class Here:
    """What a plugin found on this machine, with torch imported.

    Attributes:
        detection: its result, or how it failed.
        torch_count: the number of devices of its type that torch can use; None if torch does not
            know the type.
        others_available: whether another plugin for the same type finds devices here.
        initialized: whether detection initialised the devices.
        fork: what failed in a child forked after detection; "" if nothing did.
        facts: of each device, requested twice, or how it failed.
    """

    detection: Detection | str
    torch_count: int | None = None
    others_available: bool = False
    initialized: bool = False
    fork: str = ""
    facts: tuple[tuple[DeviceFacts | str, DeviceFacts | str], ...] = ()


def on_this_machine(plugin: str, torch_extension: str | None) -> Here:
    """Observe what a plugin finds on this machine, once `torch_extension` is imported."""
    if torch_extension is not None:
        importlib.import_module(torch_extension)
    subject = load(plugin)
    torch_device_type = subject.info.torch_device_type
    before = _is_initialized(torch_device_type)
    backend = subject.backend()
    try:
        detection = backend.detection()
    except PluginError as error:
        return Here(str(error))
    initialized = _is_initialized(torch_device_type) and not before
    fork = _fork(backend) if can_fork() else ""
    # Not earlier: `is_available` of torch may initialise the device.
    again = subject.backend()
    return Here(
        detection,
        _torch_count(torch_device_type),
        not detection.available and _others_available(plugin, torch_device_type),
        initialized,
        fork,
        tuple((_facts(backend, index), _facts(again, index)) for index in _real_indices(backend)),
    )


def _real_indices(backend: Backend) -> range:
    """The devices to describe: those that were detected and that torch has."""
    detected = backend.detection().device_count
    count = _torch_count(backend.info.torch_device_type)
    return range(detected if count is None else min(detected, count))


def _fork(backend: Backend) -> str:
    try:
        return run_forked(_use_devices, backend)
    except ProcessError as error:
        return str(error)


def _use_devices(backend: Backend) -> str:
    torch_device_type = backend.info.torch_device_type
    refuses = getattr(_device_module(torch_device_type), "_is_in_bad_fork", None)
    if refuses is not None and refuses():
        return f"torch refuses to use {torch_device_type} in it"
    for index in _real_indices(backend):
        backend.device_facts(index)  # the first use of a device, where its facts need one
    return ""


def _device_module(torch_device_type: str) -> Any:
    try:
        torch = import_torch()
        return torch and torch.get_device_module(torch_device_type)
    except (ImportError, RuntimeError):  # torch is broken, or does not know the type
        return None


def _is_initialized(torch_device_type: str) -> bool:
    is_initialized = getattr(_device_module(torch_device_type), "is_initialized", None)
    return is_initialized is not None and bool(is_initialized())


def _torch_count(torch_device_type: str) -> int | None:
    module = _device_module(torch_device_type)
    if not hasattr(module, "device_count"):
        return None
    usable = getattr(module, "is_available", lambda: True)()
    return int(module.device_count()) if usable else 0


def _others_available(plugin: str, torch_device_type: str) -> bool:
    for other in registry().backends.values():
        if other.plugin != plugin and other.info.torch_device_type == torch_device_type:
            try:
                if other.detection().available:
                    return True
            except PluginError:
                pass  # its own conformance test is about that
    return False


def _facts(backend: Backend, index: int) -> DeviceFacts | str:
    try:
        return backend.device_facts(index)
    except PluginError as error:
        return str(error)
