"""The environment of a process that takes a loopback Hub for the real one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

# What says where the Hub and its caches are, whom to trust and what to override.
_PREFIXES = ("HF_", "HUGGING", "KERNELS_", "TRANSFORMERS_OFFLINE", "DISABLE_TELEMETRY")
_NAMES = ("LOCAL_KERNELS", "DO_NOT_TRACK")


def settings(names: Iterable[str]) -> list[str]:
    """The variables among `names` that the Hub's client or this package would heed."""
    return [name for name in names if name.startswith(_PREFIXES) or name in _NAMES]


def client_environment(endpoint: str, home: Path) -> dict[str, str]:
    """The variables of a client that has never loaded anything, without telemetry or bars.

    Args:
        endpoint: the Hub's.
        home: where the client keeps its cache.
    """
    return {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "KERNELS_TRUST_FILE": os.devnull,  # an empty list
    }


def forget() -> None:
    """Make this process know no more of the Hub than a new one; the cache on disk stays."""
    from kernels_core.hub import client, install, repository

    client.reset()
    repository.forget()
    install.forget()
