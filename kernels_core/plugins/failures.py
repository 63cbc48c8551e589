"""Records of plugins that failed, and conflicts between plugins."""

from __future__ import annotations

import traceback
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence

import attrs

from kernels_core.errors import PluginConflictError, PluginError
from kernels_core.plugins.backend import Backend, without_frames
from kernels_core.plugins.discovery import DENY_LIST


@attrs.frozen
class PluginFailure:
    """How a plugin failed first: the phase, the exception, and the traceback as text."""

    plugin: str
    distribution: str
    phase: str
    error: PluginError
    traceback: str = attrs.field(repr=False)

    @classmethod
    def of(cls, error: PluginError) -> PluginFailure:
        """Record an exception."""
        text = "".join(traceback.format_exception(error))
        kept = without_frames(error)
        return cls(error.plugin, error.distribution, error.phase, kept, text)

    @property
    def names(self) -> frozenset[str]:
        """The backend names that may mean this plugin."""
        return frozenset({self.plugin, self.error.backend})

    @property
    def device_types(self) -> frozenset[str]:
        """The device types that this plugin would serve."""
        return self.names | {self.error.torch_device_type}

    def is_of_same_plugin(self, other: PluginFailure) -> bool:
        """Whether another failure is one of the same plugin."""
        return (self.plugin, self.distribution) == (other.plugin, other.distribution)

    def warn(self) -> None:
        """Warn the user that this plugin cannot be used."""
        warnings.warn(
            f"{self.error} Other plugins are not affected. Run `kernels-core doctor` to see the "
            f"traceback, or set {DENY_LIST}={self.plugin} to disable the plugin.",
            RuntimeWarning,
            stacklevel=2,
        )


def name_conflicts(backends: Iterable[Backend]) -> dict[Backend, PluginConflictError]:
    """An error for each backend that declares the name, or no-arch name, of another."""
    claims = defaultdict(list)
    for backend in backends:
        claims[f"the backend name {backend.name!r}"].append(backend)
        claims[f"the no-arch name {backend.info.noarch_name!r}"].append(backend)
    errors: dict[Backend, PluginConflictError] = {}
    for claimed, claimants in claims.items():
        if len(claimants) > 1:
            errors = conflict(claimed, claimants, phase="declare") | errors
    return errors


def conflict(
    claimed: str, claimants: Sequence[Backend], phase: str
) -> dict[Backend, PluginConflictError]:
    """An error for each of the backends that claim the same thing, which `claimed` describes."""
    plugins = " and ".join(sorted(str(backend.source) for backend in claimants))
    message = (
        f"The backend plugins {plugins} claim {claimed}, so none of them can be used ({phase}): "
        f"uninstall all but one, or disable the others with {DENY_LIST}."
    )
    return {
        backend: PluginConflictError(
            message,
            plugin=backend.plugin,
            distribution=backend.distribution,
            phase=phase,
            backend=backend.name,
            torch_device_type=backend.info.torch_device_type,
        )
        for backend in claimants
    }
