"""`Registry`: the backends, why others cannot be used, and which of them serves a device."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NoReturn, TypeVar

from kernels_core import environment
from kernels_core.device import install_hint, is_known_type
from kernels_core.errors import (
    BackendNotInstalledError,
    BackendUnavailableError,
    PluginConflictError,
    PluginError,
    UnknownDeviceError,
)
from kernels_core.hookspecs import BackendTag, Detection
from kernels_core.plugins.backend import Backend, without_frames
from kernels_core.plugins.discovery import BlockedPlugin
from kernels_core.plugins.failures import PluginFailure, conflict

STRICT = "KERNELS_STRICT_PLUGINS"
NAMED = "KERNELS_BACKEND"

_T = TypeVar("_T")


class Registry:
    """The installed backends by name, and which of them serves a device type.

    `failures` has one entry for each plugin that failed. One that failed only when a device was
    requested stays in `backends`: it fails again for whoever needs it, which is better than using
    another device instead. `blocked` has the plugins that the environment disables.
    """

    backends: Mapping[str, Backend]
    failures: tuple[PluginFailure, ...]
    blocked: tuple[BlockedPlugin, ...]

    def __init__(
        self,
        backends: Iterable[Backend],
        failures: Iterable[PluginFailure] = (),
        blocked: Iterable[BlockedPlugin] = (),
    ):
        self.failures = tuple(failures)
        self.blocked = tuple(blocked)
        self._contested_tags: dict[str, PluginConflictError] = {}
        self._keep(backends)
        for backend in self.backends.values():
            backend.on_failure(self._record)
        self.renew_locks()

    def renew_locks(self) -> None:
        """Replace the locks: in a forked child, the threads that held them do not exist."""
        self._lock = threading.RLock()
        for backend in self.backends.values():
            backend.renew_lock()

    # Selecting a backend

    def backend(self, name: str) -> Backend:
        """The backend of this name, whether or not this machine has such a device.

        Raises `UnknownDeviceError` (no plugin has the name), `BackendNotInstalledError` (or
        disabled), `BackendUnavailableError` (it failed, see `__cause__`) or `PluginConflictError`.
        """
        backend = self.backends.get(name)
        if backend is None:
            self._raise_absent(name, [f for f in self.failures if name in f.names])
        return backend

    def backend_for(self, device_type: str) -> Backend:
        """The available backend that serves a device type: the name of a backend, or torch's name.

        If no backend has that name, it may be a no-arch name, as in Hugging Face `kernels`. Several
        plugins may serve one type: torch calls ROCm devices "cuda" as well. The one that finds a
        device serves; among several of those, `KERNELS_BACKEND` decides, then the name that equals
        the type, then the higher priority. Raises as `backend` does.
        """
        named = self._named_by_environment()
        candidates = [
            backend
            for backend in self.backends.values()
            if device_type in (backend.name, backend.info.torch_device_type)
        ]
        failed = [f for f in self.failures if device_type in f.device_types]
        if not candidates and not failed:
            all_backends = self.backends.values()
            candidates = [b for b in all_backends if b.info.noarch_name == device_type]
        if not candidates:
            self._raise_absent(device_type, failed)
        if named is not None and named in candidates:
            return self._require(named)
        candidates.sort(key=lambda backend: (backend.name != device_type, *_preference(backend)))
        return self._first_available(
            candidates,
            f"No backend for device type {device_type!r} can be used on this machine:",
            failed,
            [blocked for blocked in self.blocked if blocked.plugin == device_type],
            requested=device_type,
        )

    def default_backend(self) -> Backend:
        """The backend to use where none is requested.

        That is the one `KERNELS_BACKEND` names, else the available one of the highest priority.
        Raises as `backend` does.
        """
        named = self._named_by_environment()
        if named is not None:
            return self._require(named)
        if not (self.backends or self.failures or self.blocked):
            raise BackendNotInstalledError(
                "No backend plugin is installed: install the one for your device, for example "
                "with pip install kernels-backend-<device type>.",
                backend="",
            )
        return self._first_available(
            sorted(self.backends.values(), key=_preference),
            "No installed backend can be used on this machine:",
            self.failures,
            self.blocked,
        )

    def backend_or_default(self, name: str | None) -> Backend:
        """As `backend_for`, or `default_backend` without a name; `TypeError` for other types."""
        if name is None:
            return self.default_backend()
        if not isinstance(name, str):
            raise TypeError(f"backend must be the name of a backend, such as 'cpu', got {name!r}.")
        return self.backend_for(name)

    def backend_to_download_for(self, name: str | None) -> tuple[Backend, int | None]:
        """As `backend_or_default`, with the index of its first device.

        A backend that is named may have no device on this machine, which then is only preparing for
        another one: in that case the index is None.
        """
        try:
            return self.backend_or_default(name), 0
        except BackendUnavailableError:
            if name is None:
                raise
            return self.backend(name), None

    def _named_by_environment(self) -> Backend | None:
        name = os.environ.get(NAMED, "").strip().lower()
        if not name:
            return None
        if name not in self.backends:
            self._raise_absent(name, [f for f in self.failures if name in f.names], by=NAMED)
        return self.backends[name]

    def _require(self, named: Backend) -> Backend:
        return self._first_available(
            [named], f"{NAMED}={named.name} cannot be used on this machine:"
        )

    def _first_available(
        self,
        candidates: Sequence[Backend],
        problem: str,
        failed: Iterable[PluginFailure] = (),
        blocked: Iterable[BlockedPlugin] = (),
        *,
        requested: str = "",
    ) -> Backend:
        """The first candidate that finds a device, or an error that lists why none does."""
        detections: dict[Backend, Detection | PluginError] = {}
        for backend in candidates:
            detections[backend] = found = self._detection_of(backend)
            if isinstance(found, Detection) and found.available:
                return backend
        _raise_conflict(failure for failure in failed if failure.error.backend == requested)
        errors = [found for found in detections.values() if isinstance(found, PluginError)]
        said = [str(error) for error in errors]
        errors += [failure.error for failure in failed if str(failure.error) not in said]
        raise BackendUnavailableError(
            "\n  ".join([problem, *_reasons(detections), *map(str, errors), *map(str, blocked)]),
            backend=requested or (candidates[0].name if candidates else ""),
        ) from next(iter(errors), None)

    def _detection_of(self, backend: Backend) -> Detection | PluginError:
        try:
            return backend.detection()
        except PluginError as error:
            if environment.flag(STRICT):
                raise
            return error

    def _raise_absent(
        self, requested: str, failed: Collection[PluginFailure], *, by: str = ""
    ) -> NoReturn:
        """Say why no backend of this name can be used; `by` is the variable that named it."""
        prefix = f"{by}={requested}: " if by else ""
        _raise_conflict(failed)
        for failure in failed:
            raise BackendUnavailableError(
                f"{prefix}the plugin for {requested!r} is installed but failed. {failure.error}",
                backend=requested,
            ) from failure.error
        for blocked in self.blocked:
            if blocked.plugin == requested:
                raise BackendNotInstalledError(
                    f"{prefix}the plugin for {requested!r} ({blocked.distribution}) is installed "
                    f"but disabled: {blocked.reason}.",
                    backend=requested,
                )
        installed = ", ".join(self.backends) or "none"
        advice = (
            f"Installed backends: {installed}. To install {requested!r}: {install_hint(requested)}."
        )
        if is_known_type(requested):
            raise BackendNotInstalledError(
                f"{prefix}no plugin for {requested!r} is installed. {advice}", backend=requested
            )
        raise UnknownDeviceError(
            f"{prefix}no plugin provides {requested!r}. {advice}", device=requested
        )

    # Tags

    def parse_tag(self, text: str) -> BackendTag | None:
        """Parse the backend part of a variant name; None if no plugin knows it.

        A plugin that fails at it cannot be used any more. Neither can two that claim the same tag:
        that raises `PluginConflictError`.
        """
        if text in self._contested_tags:
            raise without_frames(self._contested_tags[text])
        results = self.call_each(lambda backend: backend.parse_tag(text))
        failed = set(self.backends.values()) - set(results)
        if failed:
            self._quarantine(failed)
        tags = {backend: tag for backend, tag in results.items() if tag is not None}
        if len(tags) > 1:
            errors = conflict(f"the tag {text!r}", list(tags), phase="parse_tag")
            self._contested_tags[text] = next(iter(errors.values()))
            self._quarantine(tags)
            for error in errors.values():
                self._record(error)
            raise without_frames(self._contested_tags[text])
        return next(iter(tags.values()), None)

    # Every plugin in isolation

    def call_each(self, function: Callable[[Backend], _T]) -> dict[Backend, _T]:
        """Call a function with every usable backend, and leave out those that fail.

        With `KERNELS_STRICT_PLUGINS`, the first failure is raised.
        """
        results = {}
        for backend in self.backends.values():
            try:
                results[backend] = function(backend)
            except PluginError:
                if environment.flag(STRICT):
                    raise
        return results

    # Failures

    def _record(self, error: PluginError) -> None:
        """Keep a failure and warn of it, once per plugin."""
        if environment.flag(STRICT):
            return  # the caller gets the exception
        failure = PluginFailure.of(error)
        with self._lock:
            if any(failure.is_of_same_plugin(known) for known in self.failures):
                return
            self.failures += (failure,)
        failure.warn()

    def _quarantine(self, failed: Collection[Backend]) -> None:
        """Stop using some backends."""
        with self._lock:
            # A new mapping, since another thread may be iterating over the old one.
            self._keep(backend for backend in self.backends.values() if backend not in failed)

    def _keep(self, backends: Iterable[Backend]) -> None:
        self.backends = MappingProxyType({backend.name: backend for backend in backends})


def _reasons(detections: Mapping[Backend, Detection | PluginError]) -> Iterator[str]:
    for backend, found in detections.items():
        if isinstance(found, Detection):
            yield f"{backend.name} ({backend.distribution}): {found.reason}"


def _preference(backend: Backend) -> tuple[int, str]:
    return -backend.info.priority, backend.name


def _raise_conflict(failed: Iterable[PluginFailure]) -> None:
    for failure in failed:
        if isinstance(failure.error, PluginConflictError):
            raise without_frames(failure.error)
