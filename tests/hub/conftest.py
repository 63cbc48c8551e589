"""The loopback Hub, and processes that load from it."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("huggingface_hub")

from hub_server import Hub

# What says where the Hub and its caches are, whom to trust and what to override.
_PREFIXES = ("HF_", "HUGGING", "KERNELS_", "TRANSFORMERS_OFFLINE", "DISABLE_TELEMETRY")
_NAMES = ("LOCAL_KERNELS", "DO_NOT_TRACK")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub that this process, and those that it starts, take for the real one.

    Nothing was ever loaded from it: the caches are empty, on disk and in memory. Settings of the
    client are environment variables; for this process, call `reread_environment` after a change.
    """
    for name in list(os.environ):
        if name.startswith(_PREFIXES) or name in _NAMES:
            monkeypatch.delenv(name)
    with Hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
        monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        monkeypatch.setenv("KERNELS_TRUST_FILE", str(tmp_path / "trust.toml"))
        _reread()
        yield server
    monkeypatch.undo()
    _reread()


@pytest.fixture
def reread_environment(hub: Hub) -> Callable[[], None]:
    """Makes this process behave as one that was started in the environment of now."""
    return _reread


def _reread() -> None:
    from huggingface_hub import constants
    from huggingface_hub._tree_cache import _IN_MEMORY_TREE_CACHE
    from huggingface_hub.utils import close_session

    importlib.reload(constants)  # the client reads the environment there, and only there
    close_session()
    _IN_MEMORY_TREE_CACHE.clear()


@pytest.fixture
def fresh_python(hub: Hub) -> Callable[..., Any]:
    """Runs a program in a new process that loads from the Hub.

    Takes the program and changes of the environment, and returns what it printed last, as JSON.
    """

    def run(program: str, timeout: float = 120, **environment: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run
