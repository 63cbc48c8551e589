"""`kernels-core doctor`: the state of all backends, as one value."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib import metadata
from typing import TypeVar

import attrs

from kernels_core import environment
from kernels_core.cli.examination import BackendReport, Examination, answer_within
from kernels_core.cli.hardware import UnservedDevice, seen_devices, unserved_devices
from kernels_core.compat.provider import Provider, provider
from kernels_core.device import EXAMPLE_TAGS
from kernels_core.errors import PluginConflictError
from kernels_core.host import HostInfo, host_info
from kernels_core.hub.cache import CACHE_VARIABLE
from kernels_core.hub.trust import FILE_VARIABLE, LIST_VARIABLE, read_trust_list
from kernels_core.layers.mapping import BUNDLED, bundled_position
from kernels_core.loading.resolver import OVERRIDES
from kernels_core.plugins import Backend, BlockedPlugin, PluginFailure, Registry, registry
from kernels_core.plugins.backend import describe
from kernels_core.plugins.discovery import ALLOW_LIST, DENY_LIST
from kernels_core.plugins.registry import NAMED, STRICT

_FLAGS = (STRICT, "DISABLE_KERNEL_MAPPING")
_PATHS = (CACHE_VARIABLE, FILE_VARIABLE, LIST_VARIABLE, OVERRIDES)
_VARIABLES = (ALLOW_LIST, DENY_LIST, NAMED, BUNDLED, *_FLAGS, *_PATHS)

_T = TypeVar("_T")


@attrs.frozen
class Active:
    """Which backend serves a device type, if any, and why."""

    backend: str | None
    why: str


@attrs.frozen
class Problem:
    """A problem that is not a plugin's, and the traceback if it is useful."""

    message: str
    traceback: str = ""


@attrs.frozen
class Diagnosis:
    """The result of the doctor. The attributes are the keys of `kernels-core doctor --json`.

    Attributes:
        healthy: whether nothing failed and a backend can be used.
        kernels_core: version of kernels-core.
        host: this machine; None if torch is installed and cannot be imported.
        environment: the environment variables that are set and have an effect.
        backends: the plugins that could be loaded, and what their hooks returned.
        active: which backend serves each device type, by its name in mappings or in torch.
        default: the backend that is used if none is requested.
        blocked: the plugins that the environment disables.
        failures: the plugins that failed, with tracebacks.
        unserved: hardware that torch sees and no plugin serves, and what to install.
        import_kernels: the package that `import kernels` imports; None if it could not be
            determined.
        problems: other problems.
    """

    healthy: bool
    kernels_core: str
    host: HostInfo | None
    environment: Mapping[str, str]
    backends: tuple[BackendReport, ...]
    active: Mapping[str, Active]
    default: Active
    blocked: tuple[BlockedPlugin, ...]
    failures: tuple[PluginFailure, ...]
    unserved: tuple[UnservedDevice, ...]
    import_kernels: Provider | None
    problems: tuple[Problem, ...]


def diagnose(timeout: float) -> Diagnosis:
    """Examine the backends and this machine, with so many seconds for each call of a plugin.

    A failing plugin does not prevent the others from being examined, not even with
    `KERNELS_STRICT_PLUGINS`.
    """
    doctor = _Doctor(timeout)
    variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    doctor.attempt("read the environment", _read_environment)
    doctor.attempt("find the cache", lambda: environment.path(CACHE_VARIABLE))
    doctor.attempt("read the trust list", read_trust_list)
    with _seeing_everything():
        return doctor.diagnose(variables)


def _read_environment() -> None:
    for name in _FLAGS:
        environment.flag(name)
    bundled_position()


@contextlib.contextmanager
def _seeing_everything() -> Iterator[None]:
    """Do not stop at the first failure, and do not warn of what the result will show."""
    strict = os.environ.pop(STRICT, None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if strict is not None:
            os.environ[STRICT] = strict


class _Doctor:
    def __init__(self, timeout: float):
        self._timeout = timeout
        self._problems: list[Problem] = []

    def attempt(self, purpose: str, function: Callable[[], _T]) -> _T | None:
        """Call a function; if it fails, add a problem to the diagnosis and return None."""
        try:
            return function()
        except Exception as error:
            where = getattr(error, "stack", "") or "".join(traceback.format_exception(error))
            self._problems.append(Problem(f"Could not {purpose}: {describe(error)}", where))
            return None

    def diagnose(self, variables: Mapping[str, str]) -> Diagnosis:
        host = self.attempt("describe this machine", host_info)
        known = self.attempt("load the plugins", partial(answer_within, self._timeout, registry))
        loaded = known or Registry(())
        examinations = [Examination(b, self._timeout) for b in loaded.backends.values()]
        if host is not None:  # otherwise every backend would fail for the same reason
            self._examine(examinations, loaded)
        reports = tuple(examination.report for examination in examinations)
        failures = _merge(loaded.failures, *(e.failures for e in examinations))
        unserved = self._unserved(loaded, reports, failures) if known and host else ()
        default = self._who_serves(loaded.default_backend, reports)
        if host is not None and host.torch is None:
            self._look_for_leftovers()
        import_kernels = self.attempt("find out which package 'import kernels' imports", provider)
        if import_kernels and import_kernels.problem:
            self._problems.append(Problem(import_kernels.problem))
        return Diagnosis(
            healthy=default.backend is not None and not failures and not self._problems,
            kernels_core=metadata.version("kernels-core"),
            host=host,
            environment=variables,
            backends=reports,
            active=self._active(loaded, examinations, failures),
            default=default,
            blocked=loaded.blocked,
            failures=failures,
            unserved=unserved,
            import_kernels=import_kernels,
            problems=tuple(self._problems),
        )

    def _examine(self, examinations: Sequence[Examination], loaded: Registry) -> None:
        for examination in examinations:
            examination.call_device_hooks()
        tags = sorted({*EXAMPLE_TAGS, *(tag for e in examinations for tag in e.likely_tags())})
        for examination in examinations:
            examination.call_tag_hooks(tags)
        if any(examination.hangs for examination in examinations):
            return
        for text in tags:
            # If several claim one tag, the registry records that as their failure.
            with contextlib.suppress(PluginConflictError):
                loaded.parse_tag(text)

    def _look_for_leftovers(self) -> None:
        spec = importlib.util.find_spec("torch")
        for directory in (spec.submodule_search_locations if spec else None) or ():
            self._problems.append(
                Problem(
                    f"`import torch` imports {directory}, a directory without torch's files, so "
                    f"torch counts as not installed. Remove or rename the directory, or install "
                    f"torch."
                )
            )

    def _unserved(
        self,
        loaded: Registry,
        reports: Iterable[BackendReport],
        failures: Iterable[PluginFailure],
    ) -> tuple[UnservedDevice, ...]:
        find = partial(answer_within, self._timeout, seen_devices)
        seen = self.attempt("get devices from torch", find) or ()
        serving = {report.torch_device_type for report in reports if report.available}
        installed = {*loaded.backends, *(blocked.plugin for blocked in loaded.blocked)}
        installed.update(name for failure in failures for name in failure.names)
        return unserved_devices(seen, serving, installed)

    def _active(
        self,
        loaded: Registry,
        examinations: Sequence[Examination],
        failures: Iterable[PluginFailure],
    ) -> dict[str, Active]:
        """Which backend serves each device type that a plugin declares."""
        device_types = {kind for e in examinations for kind in e.report.device_types}
        device_types.update(kind for failure in failures for kind in failure.device_types)
        kinds = sorted(filter(str.isidentifier, device_types))
        return {kind: self._who_serves_type(kind, loaded, examinations) for kind in kinds}

    def _who_serves_type(
        self, kind: str, loaded: Registry, examinations: Iterable[Examination]
    ) -> Active:
        rivals = [e for e in examinations if kind in e.report.device_types]
        if any(examination.hangs for examination in rivals):
            return Active(None, "a plugin that serves it does not respond")
        reports = [examination.report for examination in rivals]
        if reports and all(report.available is False for report in reports):
            return Active(None, "no device")
        return self._who_serves(partial(loaded.backend_for, kind), reports, kind)

    def _who_serves(
        self, select: Callable[[], Backend], rivals: Iterable[BackendReport], device_type: str = ""
    ) -> Active:
        try:
            chosen = answer_within(self._timeout, select).name
        except Exception as error:
            return Active(None, str(error))
        others = [rival.name for rival in rivals if rival.available and rival.name != chosen]
        if os.environ.get(NAMED, "").strip().lower() == chosen:
            return Active(chosen, f"{NAMED} selects it")
        if not others:
            return Active(chosen, "the only one that finds a device")
        reason = (
            "it has the device's name" if chosen == device_type else "it has the highest priority"
        )
        return Active(chosen, f"{reason}; set {NAMED} to use {' or '.join(others)} instead")


def _merge(*failures: Iterable[PluginFailure]) -> tuple[PluginFailure, ...]:
    """The failures in the order of the plugins, the first one of each plugin and phase."""
    merged: dict[tuple[str, str, str], PluginFailure] = {}
    for failure in itertools.chain(*failures):
        merged.setdefault((failure.plugin, failure.distribution, failure.phase), failure)
    return tuple(failure for _, failure in sorted(merged.items(), key=lambda pair: pair[0][:2]))
