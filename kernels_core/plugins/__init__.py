"""The plugin host: finds backend plugins, keeps broken ones apart, and selects among the rest.

discovery.py      entry points -> what is installed and allowed; nothing is imported
registration.py   one entry point -> imported, validated and declared
backend.py        `Backend`, the typed facade over one plugin's hooks
failures.py       what is kept of a plugin that failed, and which plugins exclude each other
registry.py       `Registry`: all of them, and which backend serves
installed.py      `registry()`: the one of this process, filled when it is first asked for
"""

from __future__ import annotations

from kernels_core.plugins.backend import Backend
from kernels_core.plugins.discovery import BlockedPlugin
from kernels_core.plugins.failures import PluginFailure
from kernels_core.plugins.installed import registry, reset
from kernels_core.plugins.registry import Registry

__all__ = ["Backend", "BlockedPlugin", "PluginFailure", "Registry", "registry", "reset"]
