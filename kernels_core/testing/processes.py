"""Running a function in another process. Its arguments and result must be picklable."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Literal, TypeVar
from unittest import mock

_T = TypeVar("_T")

_SECONDS = 120.0


class ProcessError(Exception):
    """The function raised, or its process ended or hung; the text says which."""


def run_fresh(function: Callable[..., _T], *arguments: Any, hash_seed: int) -> _T:
    """Run a function in a new interpreter, whose sets are ordered by another hash seed."""
    with mock.patch.dict(os.environ, PYTHONHASHSEED=str(hash_seed)):
        return _run("spawn", function, arguments)


def run_beside_torch(function: Callable[..., _T], *arguments: Any) -> _T:
    """Run a function in a process that has imported torch and not used it.

    On systems that can fork, torch is imported once for all such processes.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return _run("spawn", function, arguments)
    multiprocessing.set_forkserver_preload(["torch"])
    return _run("forkserver", function, arguments)


def run_forked(function: Callable[..., _T], *arguments: Any) -> _T:
    """Run a function in a fork of this process."""
    return _run("fork", function, arguments)


def can_fork() -> bool:
    """Whether this system can fork."""
    return "fork" in multiprocessing.get_all_start_methods()


def _run(
    method: Literal["fork", "forkserver", "spawn"],
    function: Callable[..., _T],
    arguments: tuple[Any, ...],
) -> _T:
    context: Any = multiprocessing.get_context(method)  # typeshed has no `Process` for a union
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        if not receiver.poll(_SECONDS):
            raise ProcessError(f"its process did not finish within {_SECONDS:.0f} seconds")
        error, result = receiver.recv()
    except EOFError:
        process.join()
        raise ProcessError(f"its process ended with exit status {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
    if error:
        raise ProcessError(error)
    returned: _T = result
    return returned


def _work(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        answer = ("", function(*arguments))
    except BaseException:
        answer = (traceback.format_exc(), None)
    sender.send(answer)
    sender.close()
