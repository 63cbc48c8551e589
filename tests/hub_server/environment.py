"""The environment of a process that uses a loopback Hub instead of the real one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

# Variables for the address of the Hub, its caches, trust, and local kernels.
_PREFIXES = ("HF_", "HUGGING", "KERNELS_", "TRANSFORMERS_OFFLINE", "DISABLE_TELEMETRY")
_NAMES = ("LOCAL_KERNELS", "DO_NOT_TRACK")


def settings(names: Iterable[str]) -> list[str]:
    """The variables among `names` that the Hub's client or this package reads."""
    return [name for name in names if name.startswith(_PREFIXES) or name in _NAMES]


def client_environment(endpoint: str, home: Path) -> dict[str, str]:
    """The variables of a client with an empty cache, without telemetry or bars."""
    return {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "KERNELS_TRUST_FILE": os.devnull,  # an empty list
    }


def forget() -> None:
    """Forget all answers of the Hub, as a new process has none; the cache on disk stays."""
    from kernels_core.hub import client, install, repository

    client.reset()
    repository.forget()
    install.forget()
