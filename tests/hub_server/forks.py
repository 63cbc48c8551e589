"""Programs in processes of their own that start at once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hub_server.environment import settings


class Fork:
    """A program that runs in a process of its own.

    Attributes:
        pid: its process.
    """

    def __init__(self, connection: socket.socket, program: str, environment: object) -> None:
        self._stream = connection.makefile("rw", encoding="utf-8")
        self._connection = connection
        self._stream.write(json.dumps({"program": program, "environment": environment}) + "\n")
        self._stream.flush()
        self.pid = int(self._stream.readline())

    def kill(self) -> None:
        """Kill it, whatever it is doing."""
        os.kill(self.pid, signal.SIGKILL)

    def result(self, timeout: float = 60) -> Any:
        """What the program left in `result`; None when it was killed.

        It is killed after `timeout` seconds, which raises a TimeoutError. The message of an
        AssertionError is the traceback of what the program raised.
        """
        self._connection.settimeout(timeout)
        try:
            line = self._stream.readline()
        except TimeoutError:
            self.kill()
            raise TimeoutError(f"not done after {timeout} s") from None
        finally:
            self._connection.close()
        outcome = json.loads(line) if line else {"result": None}
        assert "error" not in outcome, outcome["error"]
        return outcome["result"]


class Forks:
    """Forks of one process that has imported everything that loading a kernel imports."""

    def __init__(self) -> None:
        # Not below a test's folder: the path of a socket must be short.
        self._folder = tempfile.TemporaryDirectory()
        self._address = str(Path(self._folder.name, "socket"))
        script = Path(__file__).with_name("fork_server.py")
        self._server = subprocess.Popen(
            [sys.executable, str(script), self._address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={name: os.environ[name] for name in set(os.environ) - set(settings(os.environ))},
        )
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "ready\n", "the fork server failed, see its error"

    def start(self, program: str, environment: Mapping[str, str]) -> Fork:
        """Start a program, which leaves a JSON value in `result`."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._address)
        return Fork(connection, program, dict(environment))

    def close(self) -> None:
        """End the process that forks; its forks go on."""
        self._server.communicate(timeout=10)
        self._folder.cleanup()
