"""`kernels-core` as users run it: its console script, in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = str(Path(sys.executable).with_name("kernels-core"))


class CommandLine:
    """The command, in the environment that runs the tests."""

    def run(
        self, *arguments: str, start: tuple[str, ...] = (SCRIPT,), **variables: str
    ) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("KERNELS_")}
        command = [*start, *arguments]
        return subprocess.run(command, env=clean | variables, capture_output=True, text=True)


@pytest.fixture(scope="session")
def command_line() -> CommandLine:
    return CommandLine()
