"""The process in which the code of a kernel runs: `python -m kernels_core.check.run.worker`.

Each step reports what it sees as events, and announces each thing that may crash.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path


def main(step: str, request_file: str, events_file: str) -> None:
    """Run a step: read its request from a JSON file, and write events to another file."""
    folder = os.getcwd()
    sys.path[:] = [each for each in sys.path if each not in ("", folder)]
    _no_core_files()
    request = json.loads(Path(request_file).read_text("utf-8"))
    with open(events_file, "a", encoding="utf-8") as stream:

        def report(event: str, **details: object) -> None:
            stream.write(json.dumps({"event": event, **details}) + "\n")
            stream.flush()

        try:
            # Imports torch and plugins; a failure is reported, and not blamed on the kernel.
            from kernels_core.check.run.steps import STEPS

            STEPS[step](request, report)
        except Exception:  # exceptions of the kernel were reported before
            report("broken", text=traceback.format_exc())
        report("done")
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of the kernel may still run, and must not keep the process alive.
    os._exit(0)


def _no_core_files() -> None:
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main(*sys.argv[1:])
