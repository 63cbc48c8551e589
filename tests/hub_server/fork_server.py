"""A process that has imported everything, and forks one that runs a program for each connection.

Usage: fork_server.py SOCKET

A connection sends one line of JSON, `{"program": ..., "environment": ...}`, and receives the id of
the process that runs it, then what the program left in `result`, or the traceback of its failure.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import sys
import traceback
from typing import Any


def prepare() -> None:
    """Do what every process does that loads a kernel, whichever kernel it is."""
    from kernels_core.plugins import registry

    for name in ("repository", "hub", "locks", "loading"):
        package = importlib.import_module(f"kernels_core.{name}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    for name in ("huggingface_hub.hf_api", "packaging.requirements"):
        importlib.import_module(name)
    backend = registry().default_backend()
    backend.detection()
    backend.device_facts(0)
    importlib.import_module("huggingface_hub.utils").get_session()  # not connected to anything
    gc.collect()
    gc.freeze()  # a collection in a fork need not look at all this again


def run(program: str, environment: dict[str, str]) -> Any:
    """Run a program as if this process had been started in an environment."""
    os.environ.update(environment)
    importlib.reload(importlib.import_module("huggingface_hub.constants"))
    names: dict[str, Any] = {"result": None}
    exec(compile(program, "<program>", "exec"), names)
    return names["result"]


def serve(connection: socket.socket) -> None:
    """Run the program that a connection sends."""
    with connection, connection.makefile("rw", encoding="utf-8") as stream:
        order = json.loads(stream.readline())
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        try:
            outcome = {"result": run(order["program"], order["environment"])}
        except BaseException:
            outcome = {"error": traceback.format_exc()}
        stream.write(f"{json.dumps(outcome)}\n")
        stream.flush()
        stream.readline()  # until the connection closes, so that nobody else gets this id


def main() -> None:
    """Fork for every connection until standard input ends."""
    prepare()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen(64)
        print("ready", flush=True)
        nothing = os.open(os.devnull, os.O_RDWR)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in ready:
                return
            connection, _ = listener.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listener.close()
                # A reader of the server's output need not wait for the forks to end.
                os.dup2(nothing, sys.stdin.fileno())
                os.dup2(nothing, sys.stdout.fileno())
                serve(connection)
                os._exit(0)
            connection.close()


if __name__ == "__main__":
    main()
