"""The plugin host: finds backend plugins, keeps broken ones apart, and selects among the rest.

discovery.py      entry points -> what is installed and allowed; nothing is imported
registration.py   one entry point -> imported, validated and declared
backend.py        `Backend`, the typed facade over one plugin's hooks
selection.py      which of several backends serves, or the error that says why none does
registry.py       `registry()`, which holds all of it, once per process
"""

from __future__ import annotations

from kernels_core.plugins.backend import Backend
from kernels_core.plugins.discovery import BlockedPlugin
from kernels_core.plugins.failures import PluginFailure
from kernels_core.plugins.registry import Registry, registry, reset

__all__ = ["Backend", "BlockedPlugin", "PluginFailure", "Registry", "registry", "reset"]
