"""The loopback Hub, and processes that load from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("huggingface_hub")

from hub_server import Forks, Hub
from hub_server.fixtures import hub as hub
from hub_server.fixtures import reread


@pytest.fixture
def reread_environment(hub: Hub) -> Callable[[], None]:
    """Make this process load as a new one would."""
    return reread


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
