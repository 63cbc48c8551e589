"""Programs of their own, since what answers `import kernels` is a matter of the whole process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_server.fixtures import hub as hub

Run = Callable[..., str]

_ACTIVATE = "import kernels_core.compat\nkernels_core.compat.activate()\n"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a program with `import kernels` answered by kernels-core; returns what it prints.

    Takes the program, `activate=False` to leave that to it, `path` with folders to put in front of
    the module search path, and environment variables. A program that fails, fails the test.
    """

    def run_program(
        program: str, *, activate: bool = True, path: tuple[Path, ...] = (), **variables: str
    ) -> str:
        file = tmp_path / "program.py"
        file.write_text((_ACTIVATE if activate else "") + program, "utf-8")
        environment = {**os.environ, **variables}
        folders = [*map(str, path), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
        done = subprocess.run(
            [sys.executable, str(file)],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run_program
