"""Call every hook of one backend.

Requirements of the backend's own kinds, and realistic candidates, are left to its conformance test.
"""

from __future__ import annotations

import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import attrs

from kernels_core.cli.output import plain
from kernels_core.device import (
    Architectures,
    CapabilityRange,
    DeviceFacts,
    DeviceProperties,
    Features,
    MinimumVersions,
)
from kernels_core.errors import KernelsError, PluginError
from kernels_core.hookspecs import Candidate, SelectionRequest
from kernels_core.layers.repositories import LocalLayerRepository
from kernels_core.mode import Mode
from kernels_core.plugins import Backend, PluginFailure
from kernels_core.repository.local import LocalRepository

_T = TypeVar("_T")


class NoAnswerError(KernelsError, TimeoutError):
    """A call did not return in time; `stack` is where it is."""

    stack: str


def answer_within(seconds: float, function: Callable[[], _T]) -> _T:
    """Call a function in a thread, which is abandoned if it does not return in time.

    Raises `NoAnswerError` then, or whatever the function raises.
    """
    answer: Future[_T] = Future()

    def run() -> None:
        try:
            answer.set_result(function())
        except BaseException as error:
            answer.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answer.done():
        frame = sys._current_frames().get(thread.ident or 0)
        stack = "".join(traceback.format_stack(frame)) if frame else ""
        raise NoAnswerError(f"no answer within {seconds:g} s.", stack=stack)
    return answer.result()


@attrs.frozen
class BackendReport:
    """What the hooks of a backend returned, except for those that failed.

    Attributes:
        name: name of the backend.
        plugin: name of the entry point.
        distribution: name and version of the package that contains it.
        torch_device_type: what torch calls its devices.
        priority: the highest one is the default if several can be used.
        available: whether it finds a device here; None if detection failed.
        runtime_version: of the runtime that builds are matched with, or None.
        reason: why it finds no device; "" if it does.
        devices: the facts of each device.
        layers: names of the layers that it provides kernels for.
    """

    name: str
    plugin: str
    distribution: str
    torch_device_type: str
    priority: int
    available: bool | None = None
    runtime_version: str | None = None
    reason: str = ""
    devices: tuple[Mapping[str, Any], ...] = ()
    layers: tuple[str, ...] = ()

    @property
    def device_types(self) -> frozenset[str]:
        """The names of its devices in mappings and in torch."""
        return frozenset({self.name, self.torch_device_type})


class Examination:
    """The examination of one backend, which waits `timeout` seconds for each call.

    `report` and `failures` grow with the calls. If one did not return (`hangs`), no more are made.
    """

    def __init__(self, backend: Backend, timeout: float):
        info = backend.info
        self.backend = backend
        self.report = BackendReport(
            backend.name,
            backend.plugin,
            backend.distribution,
            info.torch_device_type,
            info.priority,
        )
        self.failures: list[PluginFailure] = []
        self.hangs = False
        self._timeout = timeout

    def call_device_hooks(self) -> None:
        """Call all hooks but those for tags."""
        backend = self.backend
        layers = self._call("bundled", self._bundled_layers)
        detection = self._call("detect", backend.detection)
        if detection is None:
            self.report = attrs.evolve(self.report, layers=layers or ())
            return
        self.report = attrs.evolve(
            self.report,
            layers=layers or (),
            available=detection.available,
            runtime_version=detection.runtime_version,
            reason=detection.reason,
            devices=tuple(self._describe_devices(detection.device_count)),
        )

    def _bundled_layers(self) -> tuple[str, ...]:
        bundled = self.backend.bundled()
        for path in {path for entries in bundled.values() for path in _local_paths(entries)}:
            LocalRepository(path).builds()  # raises where there is none
        return tuple(sorted(bundled))

    def likely_tags(self) -> Iterator[str]:
        """Tags that the backend probably parses, from its names and version."""
        info = self.backend.info
        yield from (info.name, info.noarch_name)
        if self.report.runtime_version:
            yield info.name + "".join(re.findall("[0-9]+", self.report.runtime_version)[:2])

    def call_tag_hooks(self, tags: Iterable[str]) -> None:
        """Call the hooks for tags, its own and those of other backends."""
        for text in tags:
            tag = self._call("parse_tag", partial(self.backend.parse_tag, text))
            if tag is not None:
                self._call("match_tag", partial(self.backend.match_tag, tag))

    def _call(self, phase: str, function: Callable[[], _T]) -> _T | None:
        if self.hangs:
            return None
        try:
            return answer_within(self._timeout, function)
        except PluginError as error:
            self.failures.append(PluginFailure.of(error))
        except NoAnswerError as error:
            self.hangs = True
            failure = PluginFailure.of(self.backend.source.error(phase, f"it gave {error}"))
            self.failures.append(attrs.evolve(failure, traceback=error.stack))
        except Exception as error:  # the value has the right type, but using it fails
            broken = self.backend.source.error(phase, f"its return value is unusable: {error!r}.")
            broken.__cause__ = error
            self.failures.append(PluginFailure.of(broken))
        return None

    def _describe_devices(self, count: int) -> Iterator[Mapping[str, Any]]:
        for index in range(count):
            facts = self._call("facts", partial(self.backend.device_facts, index))
            description = self._call("facts", partial(plain, facts))
            if facts is not None and description is not None:
                self._call_matching_hooks(facts)
                yield description

    def _call_matching_hooks(self, facts: DeviceFacts) -> None:
        backend = self.backend
        for kind in backend.info.properties:
            required = _example_of(kind)
            if required is not None:
                self._call("match_device", partial(backend.match_device, required, facts))
        self._call("match_archs", partial(backend.match_archs, ("none",), facts))
        request = SelectionRequest("Doctor", Mode.INFERENCE, facts)
        candidates = [Candidate(f"org/kernel{n}", Mode.FALLBACK, None) for n in range(2)]
        self._call("select", partial(backend.select, request, candidates))


def _local_paths(entry: object) -> Iterator[Path]:
    """The repositories on disk in an entry of a mapping, which may be by device and mode."""
    if isinstance(entry, Mapping):
        for inside in entry.values():
            yield from _local_paths(inside)
    elif isinstance(entry, LocalLayerRepository):
        yield entry.repo_path


def _example_of(kind: type[DeviceProperties]) -> DeviceProperties | None:
    """A requirement of one of the core's kinds; None for a plugin's own."""
    if issubclass(kind, CapabilityRange):
        return kind(0, 0)
    if issubclass(kind, (Architectures, Features)):
        return kind("none")
    if issubclass(kind, MinimumVersions):
        return kind({"none": "0"})
    return None
