"""Processes in which the code of a kernel runs, and the events that they report.

A worker writes events to a file, line by line, so that those before a crash are kept. The output
of the kernel goes elsewhere.
"""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import attrs

from kernels_core.errors import CheckError

Event = dict[str, Any]

ReportEvent = Callable[..., None]
"""Called in the process of the kernel with the name of an event, and its details by keyword."""

_KEPT_OUTPUT = 64 << 10
_MAX_EVENTS = 16 << 20


@attrs.frozen
class Worked:
    """The outcome of a process.

    Attributes:
        events: the events that it reported.
        ended: how it ended before it was done, such as "SIGSEGV"; "" when it was done.
        output: the end of its output.
    """

    events: tuple[Event, ...]
    ended: str
    output: str

    def of(self, kind: str) -> tuple[Event, ...]:
        """The events of one kind."""
        return tuple(event for event in self.events if event.get("event") == kind)

    @property
    def doing(self) -> Event:
        """What it was doing when it ended."""
        begun = self.of("begin")
        return begun[-1] if begun else {}


def work(step: str, request: Mapping[str, object], limit: float) -> Worked:
    """Run a step in a process of its own, for at most `limit` seconds; `request` is sent as JSON.

    Raises `CheckError` where the step itself failed, and not the kernel.
    """
    with tempfile.TemporaryDirectory(prefix="kernels-check-") as folder:
        sent, reported = Path(folder, "request.json"), Path(folder, "events.jsonl")
        sent.write_text(json.dumps(request), "utf-8")
        reported.touch()
        command = [sys.executable, "-m", "kernels_core.check.run.worker", step, sent, reported]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONFAULTHANDLER": "1"}
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        ended, output = _watch(process, limit)
        events = _read(reported)
    for event in events:
        if event.get("event") == "broken":
            raise CheckError(
                f"{request['build']} could not be run:\n{event['text']}", path=request["build"]
            )
    done = any(event.get("event") == "done" for event in events)
    return Worked(events, "" if done else ended, output)


def _watch(process: subprocess.Popen[bytes], limit: float) -> tuple[str, str]:
    assert process.stdout is not None
    kept: collections.deque[bytes] = collections.deque(maxlen=_KEPT_OUTPUT >> 10)
    reader = threading.Thread(target=_drain, args=(process.stdout, kept), daemon=True)
    reader.start()
    try:
        code = process.wait(limit)
        ended = _described(code)
    except subprocess.TimeoutExpired:
        ended = f"timed out after {limit:.0f} seconds"
    finally:
        # Also processes that it started and left behind.
        _kill(process)
        process.wait()
    reader.join(5)
    return ended, b"".join(tuple(kept)).decode("utf-8", "replace")


def _drain(stream: IO[bytes], kept: collections.deque[bytes]) -> None:
    while block := os.read(stream.fileno(), 1 << 10):
        kept.append(block)


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except (ProcessLookupError, PermissionError):
        pass


def _described(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _read(file: Path) -> tuple[Event, ...]:
    events = []
    with file.open("rb") as stream:
        for line in stream.read(_MAX_EVENTS).splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue  # the last line of a process that was killed while writing
            if isinstance(event, dict):
                events.append(event)
    return tuple(events)
