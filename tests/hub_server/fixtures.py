"""The loopback Hub as a fixture, for the conftest files of the folders that use it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_server.environment import client_environment, forget, settings
from hub_server.server import Hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub that this process, and those that it starts, use as the real one.

    Nothing was ever loaded from it: the caches are empty, on disk and in memory. Settings of the
    client are environment variables; for this process, call `reread` after a change.
    """
    for name in settings(os.environ):
        monkeypatch.delenv(name)
    with Hub() as server:
        for name, value in client_environment(server.endpoint, tmp_path / "hf-home").items():
            monkeypatch.setenv(name, value)
        reread()
        yield server
    monkeypatch.undo()
    reread()


def reread() -> None:
    """Make this process load as a new one would."""
    from huggingface_hub import close_session, constants

    importlib.reload(constants)  # the client reads the environment there, and only there
    close_session()
    forget()
