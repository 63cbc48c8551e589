"""Backend plugins: finding them, isolating broken ones, and selecting among the others.

discovery.py      entry points -> what is installed and enabled; nothing is imported
registration.py   one entry point -> imported, validated and declared
backend.py        `Backend`, the typed facade over one plugin's hooks
failures.py       records of failed plugins, and conflicts between plugins
registry.py       `Registry`: all backends, and which of them serves a device
installed.py      `registry()`: the registry of this process, filled when it is first used
"""

from __future__ import annotations

from kernels_core.plugins.backend import Backend
from kernels_core.plugins.discovery import BlockedPlugin
from kernels_core.plugins.failures import PluginFailure
from kernels_core.plugins.installed import registry, reset
from kernels_core.plugins.registry import Registry

__all__ = ["Backend", "BlockedPlugin", "PluginFailure", "Registry", "registry", "reset"]
