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

from hub_server import Forks, Hub, client_environment, forget, settings


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub that this process, and those that it starts, use as the real one.

    Nothing was ever loaded from it: the caches are empty, on disk and in memory. Settings of the
    client are environment variables; for this process, call `reread_environment` after a change.
    """
    for name in settings(os.environ):
        monkeypatch.delenv(name)
    with Hub() as server:
        for name, value in client_environment(server.endpoint, tmp_path / "hf-home").items():
            monkeypatch.setenv(name, value)
        _reread()
        yield server
    monkeypatch.undo()
    _reread()


@pytest.fixture
def reread_environment(hub: Hub) -> Callable[[], None]:
    """Make this process load as a new one would."""
    return _reread


def _reread() -> None:
    from huggingface_hub import close_session, constants

    importlib.reload(constants)  # the client reads the environment there, and only there
    close_session()
    forget()


@pytest.fixture
def fresh_python(hub: Hub) -> Callable[..., Any]:
    """Run a program in a new process that loads from the Hub.

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


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Processes that start at once, each as if it were new."""
    made = Forks()
    yield made
    made.close()
