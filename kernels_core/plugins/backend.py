"""`Backend`: the typed facade over the hooks of one plugin.

Every hook is bound once and called directly. What it returns is checked here, so that the rest of
the core can rely on it, and every failure is a `PluginError` that names the hook and the plugin.
"""

from __future__ import annotations

import copy
import reprlib
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from kernels_core.device import Device, DeviceFacts, DeviceProperties
from kernels_core.errors import (
    BackendUnavailableError,
    KernelsError,
    PluginError,
    UnknownDeviceError,
)
from kernels_core.hookspecs import (
    BackendInfo,
    BackendTag,
    Candidate,
    Detection,
    Match,
    SelectionRequest,
)
from kernels_core.host import host_info
from kernels_core.plugins.discovery import PluginSource

_T = TypeVar("_T")

_FITS = Match.yes()

PHASES = {
    "kernels_backend": "declare",
    "kernels_detect": "detect",
    "kernels_device_facts": "facts",
    "kernels_parse_tag": "parse_tag",
    "kernels_match_tag": "match_tag",
    "kernels_match_device": "match_device",
    "kernels_match_archs": "match_archs",
    "kernels_select": "select",
    "kernels_bundled": "bundled",
}
"""What the core is doing when it calls a hook; the `phase` of a `PluginError`."""


class Hooks:
    """The hook functions of one plugin by name, each with the arguments of its specification.

    `info` is set once the plugin has declared its backend. `on_failure` is called with every
    failure before it is raised; the registry records them.
    """

    def __init__(self, source: PluginSource, functions: Mapping[str, Callable[..., object]]):
        self.source = source
        self.info: BackendInfo | None = None
        self.functions = dict(functions)
        self.on_failure: Callable[[PluginError], None] = lambda error: None

    def call(
        self,
        hook: str,
        expected: type[_T],
        *arguments: object,
        check: Callable[[_T], str] | None = None,
    ) -> _T:
        """Call a hook and check what it returns; `check` says what it must be instead, or ""."""
        try:
            return self._call(hook, expected, arguments, check)
        except PluginError as error:
            self.on_failure(error)
            raise

    def _call(
        self,
        hook: str,
        expected: type[_T],
        arguments: tuple[object, ...],
        check: Callable[[_T], str] | None,
    ) -> _T:
        try:
            answer = self.functions[hook](*arguments)
            problem = _problem(answer, expected, check)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit, or a panic in native code
            raise self.error(hook, f"raised {describe(error)}.") from error
        if problem or not isinstance(answer, expected):
            raise self.wrong(hook, problem, answer)
        return answer

    def error(self, hook: str, problem: str) -> PluginError:
        """A `PluginError` about one hook."""
        error = self.source.error(PHASES[hook], f"{hook} {problem}")
        if self.info is not None:
            error.backend = self.info.name
            error.torch_device_type = self.info.torch_device_type
        return error

    def wrong(self, hook: str, expected: str, answer: object) -> PluginError:
        """A `PluginError` about a return value that breaks the contract."""
        return self.error(hook, f"{expected}, got {type(answer).__name__}: {reprlib.repr(answer)}.")


def _problem(answer: object, expected: type[_T], check: Callable[[_T], str] | None) -> str:
    if not isinstance(answer, expected):
        return f"must return a {expected.__name__}"
    return check(answer) if check else ""


def describe(error: BaseException) -> str:
    """Type and text of an exception, even where its `__str__` fails."""
    described = traceback.TracebackException(type(error), error, None)
    vars(described)["__notes__"] = None  # which would come last
    return list(described.format_exception_only())[-1].strip()


def without_frames(error: PluginError) -> PluginError:
    """A copy to keep or to raise again, whose cause is the traceback as text.

    Frames would keep alive what callers have in their variables, such as a model.
    """
    copied = copy.copy(error)
    copied.__cause__ = error.__cause__
    if error.__traceback__ or (error.__cause__ and error.__cause__.__traceback__):
        copied.__cause__ = KernelsError("\n" + "".join(traceback.format_exception(error)))
    return copied


class Backend:
    """One usable backend plugin.

    Detection and device facts are requested from the plugin once and kept. All methods are safe to
    call from any thread, and raise `PluginError` when the plugin fails or breaks the contract.
    """

    def __init__(self, info: BackendInfo, hooks: Hooks):
        self.info = info
        self.source = hooks.source
        self._hooks = hooks
        self._detected: Detection | PluginError | None = None
        self._facts: dict[int, DeviceFacts] = {}
        self.renew_lock()

    def __repr__(self) -> str:
        return f"<Backend {self.name!r} from {self.distribution}>"

    @property
    def name(self) -> str:
        """Name of the backend, which is also the device type in mappings."""
        return self.info.name

    @property
    def plugin(self) -> str:
        """Name of the plugin's entry point."""
        return self.source.plugin

    @property
    def distribution(self) -> str:
        """Name and version of the package that contains the plugin."""
        return self.source.distribution

    def on_failure(self, callback: Callable[[PluginError], None]) -> None:
        """Set the function that is called with every failure of a hook, before it is raised."""
        self._hooks.on_failure = callback

    def renew_lock(self) -> None:
        """Replace the lock: in a forked child, the thread that held it does not exist."""
        self._lock = threading.RLock()

    def detection(self) -> Detection:
        """Whether the backend can be used on this machine. A failure is kept and raised again."""
        if self._detected is None:
            with self._lock:
                if self._detected is None:
                    self._detected = self._detect()
        if isinstance(self._detected, PluginError):
            raise without_frames(self._detected)
        return self._detected

    def _detect(self) -> Detection:
        host = host_info()
        try:
            return self._hooks.call("kernels_detect", Detection, host)
        except PluginError as error:
            self._detected = without_frames(error)
            raise

    def device_facts(self, index: int) -> DeviceFacts:
        """Describe one device.

        Raises `UnknownDeviceError` for a wrong index, `BackendUnavailableError` without any device.
        """
        facts = self._facts.get(index)
        if facts is None:
            with self._lock:
                facts = self._facts.get(index)
                if facts is None:
                    facts = self._facts[index] = self._describe(index)
        return facts

    def _describe(self, index: int) -> DeviceFacts:
        detection = self.detection()
        if not detection.available:
            raise BackendUnavailableError(
                f"Backend {self.name!r} ({self.distribution}) finds no device on this machine: "
                f"{detection.reason}",
                backend=self.name,
            )
        device = f"{self.info.torch_device_type}:{index}"
        if not 0 <= index < detection.device_count:
            raise UnknownDeviceError(
                f"Device {device} does not exist: backend {self.name!r} found "
                f"{detection.device_count}, numbered from 0.",
                device=device,
            )

        def check(facts: DeviceFacts) -> str:
            return "" if facts.index == index else f"must describe {device}"

        return self._hooks.call("kernels_device_facts", self.info.facts, index, check=check)

    def parse_tag(self, text: str) -> BackendTag | None:
        """Parse the backend part of a variant name; None if it belongs to another backend."""

        def check(tag: object) -> str:
            if tag is None:
                return ""
            if not isinstance(tag, BackendTag):
                return "must return a BackendTag or None"
            if tag.backend != self.name:
                return f"must return a tag of backend {self.name!r}"
            if not all(type(number) is int for number in tag.version):
                return "must return a tag whose version consists of integers"
            return "" if str(tag) == text else f"must return a tag whose text is {text!r}, or None"

        tag = self._hooks.call("kernels_parse_tag", object, text, check=check)
        return tag if isinstance(tag, BackendTag) else None

    def match_tag(self, tag: BackendTag) -> Match:
        """Match the tag of a build with what was detected; tags of other backends do not fit."""
        if tag.backend != self.name:
            return Match.no(f"it is built for backend {tag.backend!r}, not {self.name!r}")
        return self._hooks.call("kernels_match_tag", Match, tag, self.detection())

    def match_device(self, required: DeviceProperties | None, facts: DeviceFacts) -> Match:
        """Match what a mapping entry requires with a device; None fits every device."""
        if required is None:
            return _FITS
        if "kernels_match_device" not in self._hooks.functions or not isinstance(
            required, self.info.properties
        ):
            return Match.no(f"backend {self.name!r} does not support {type(required).__name__}")
        return self._hooks.call("kernels_match_device", Match, required, facts)

    def match_archs(self, archs: Sequence[str], facts: DeviceFacts) -> Match:
        """Match the architectures that a build declares, at least one, with a device."""
        if "kernels_match_archs" not in self._hooks.functions:
            return _FITS
        return self._hooks.call("kernels_match_archs", Match, archs, facts)

    def select(
        self, request: SelectionRequest, candidates: Sequence[Candidate]
    ) -> tuple[Candidate, ...]:
        """Order the candidates for a layer, best first; as given if the plugin has no opinion."""
        given = tuple(candidates)
        if "kernels_select" not in self._hooks.functions:
            return given

        def check(answer: object) -> str:
            # By identity: candidates hold repositories of users, which need not be hashable.
            is_permutation = isinstance(answer, Sequence) and (
                sorted(map(id, answer)) == sorted(map(id, given))
            )
            if is_permutation or answer is None:
                return ""
            return "must return the given candidates in some order, or None"

        answer = self._hooks.call("kernels_select", object, request, given, check=check)
        return tuple(answer) if isinstance(answer, Sequence) else given

    def bundled(self) -> Mapping[str, Mapping[Any, Any]]:
        """The kernels that the backend provides, as a kernel mapping."""
        if "kernels_bundled" not in self._hooks.functions:
            return {}

        def check(mapping: object) -> str:
            if not isinstance(mapping, Mapping) or not all(
                isinstance(layer_name, str) and isinstance(devices, Mapping)
                for layer_name, devices in mapping.items()
            ):
                return "must return a mapping of layer names to mappings"
            devices = (device for devices in mapping.values() for device in devices)
            types = {device.type if isinstance(device, Device) else device for device in devices}
            if types - {self.name}:
                return f"must provide kernels for its own device type {self.name!r} only"
            return ""

        answer = self._hooks.call("kernels_bundled", object, check=check)
        return answer if isinstance(answer, Mapping) else {}
