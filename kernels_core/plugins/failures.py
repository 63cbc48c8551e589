"""What is kept of a plugin that failed, and which plugins exclude each other."""

from __future__ import annotations

import traceback
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence

import attrs

from kernels_core.errors import PluginConflictError, PluginError
from kernels_core.plugins.backend import Backend
from kernels_core.plugins.discovery import DENY_LIST


@attrs.frozen
class PluginFailure:
    """A plugin that failed, and how.

    Attributes:
        plugin: name of the entry point.
        distribution: name and version of the package that brings it.
        phase: what the core was doing with it when it first failed, for example "import".
        error: the exception, chained to the one that the plugin raised.
        traceback: the whole of it as text.
    """

    plugin: str
    distribution: str
    phase: str
    error: PluginError
    traceback: str = attrs.field(repr=False)

    @classmethod
    def of(cls, error: PluginError) -> PluginFailure:
        """Record an error."""
        text = "".join(traceback.format_exception(error))
        return cls(error.plugin, error.distribution, error.phase, error, text)

    @property
    def names(self) -> frozenset[str]:
        """The backend names by which this plugin would be asked for."""
        return frozenset({self.plugin, self.error.backend})

    @property
    def device_types(self) -> frozenset[str]:
        """The device types that this plugin would serve."""
        return self.names | {self.error.torch_device_type}

    def is_of_same_plugin(self, other: PluginFailure) -> bool:
        """Whether another failure is one of this plugin."""
        return (self.plugin, self.distribution) == (other.plugin, other.distribution)

    def warn(self) -> None:
        """Tell the user that this plugin is out of use."""
        warnings.warn(
            f"{self.error} The other plugins go on without it. `kernels-core doctor` shows the "
            f"whole traceback; {DENY_LIST}={self.plugin} switches the plugin off.",
            RuntimeWarning,
            stacklevel=2,
        )


def name_conflicts(backends: Iterable[Backend]) -> dict[Backend, PluginConflictError]:
    """The backends that declare the name, or the no-arch name, of another, with their errors."""
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
    """One error for each backend that claims the same thing as another.

    Args:
        claimed: what they claim, for people.
        claimants: at least two backends.
        phase: what the core was doing when it saw the claims.
    """
    plugins = " and ".join(sorted(str(backend.source) for backend in claimants))
    message = (
        f"The backend plugins {plugins} claim {claimed}, so none of them can be used ({phase}): "
        f"uninstall all but one, or switch them off with {DENY_LIST}."
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
