"""The plugin host: finds backend plugins, keeps broken ones apart, and selects among the rest.

discovery.py      entry points -> what is installed and allowed; nothing is imported
registration.py   one entry point -> imported, validated and declared
backend.py        `Backend`, the typed facade over one plugin's hooks
failures.py       what is kept of a plugin that failed, and which plugins exclude each other
registry.py       `registry()`: all of it, once per process, and which backend serves
"""

from __future__ import annotations

from kernels_core.plugins.backend import Backend
from kernels_core.plugins.discovery import BlockedPlugin
from kernels_core.plugins.failures import PluginFailure
from kernels_core.plugins.registry import Registry, registry, reset

__all__ = ["Backend", "BlockedPlugin", "PluginFailure", "Registry", "registry", "reset"]
