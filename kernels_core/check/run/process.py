"""Processes in which the code of a kernel runs, and what they tell of it.

A worker writes what it sees into a file, line by line, so that what it saw before it crashed is
known. What the kernel prints goes elsewhere.
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
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import attrs

from kernels_core.errors import CheckError

Event = dict[str, Any]

_KEPT_OUTPUT = 64 << 10
_MAX_EVENTS = 16 << 20


@attrs.frozen
class Worked:
    """What came of a process.

    Attributes:
        events: what it told.
        ended: how it ended before it was done, such as "SIGSEGV"; "" when it was done.
        output: the last of what it printed.
    """

    events: tuple[Event, ...]
    ended: str
    output: str

    def of(self, kind: str) -> tuple[Event, ...]:
        """The events of one kind."""
        return tuple(event for event in self.events if event.get("event") == kind)

    @property
    def doing(self) -> Event:
        """What it had begun when it ended."""
        begun = self.of("begin")
        return begun[-1] if begun else {}


def work(step: str, request: Mapping[str, object], limit: float) -> Worked:
    """Let a process of its own do a step of `run_worker`.

    Args:
        step: the name of the step.
        request: what the step is given; goes through JSON.
        limit: seconds that it may take; after that it is ended, with what it has started.

    Raises:
        CheckError: the step itself failed, and not the kernel.
    """
    with tempfile.TemporaryDirectory(prefix="kernels-check-") as folder:
        asked, told = Path(folder, "request.json"), Path(folder, "events.jsonl")
        asked.write_text(json.dumps(request), "utf-8")
        told.touch()
        command = [sys.executable, "-m", "kernels_core.check.run.worker", step, asked, told]
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
        events = _read(told)
    for event in events:
        if event.get("event") == "broken":
            raise CheckError(
                f"{request['build']} could not be tried:\n{event['text']}", path=request["build"]
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
        ended = _told(code)
    except subprocess.TimeoutExpired:
        ended = f"not done after {limit:.0f} seconds"
    finally:
        # Also what it started and left behind.
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


def _told(code: int) -> str:
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
                continue  # the last line of a process that was ended while it wrote
            if isinstance(event, dict):
                events.append(event)
    return tuple(events)
