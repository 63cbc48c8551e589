"""The process in which the code of a kernel runs: `python -m kernels_core.check.run.worker`.

Each step tells by events what it sees, and before each thing that may crash that it begins with it.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path


def main(step: str, asked: str, told: str) -> None:
    """Do a step.

    Args:
        step: its name.
        asked: a file of JSON with what it needs.
        told: the file to write events to.
    """
    folder = os.getcwd()
    sys.path[:] = [each for each in sys.path if each not in ("", folder)]
    _no_core_files()
    request = json.loads(Path(asked).read_text("utf-8"))
    with open(told, "a", encoding="utf-8") as stream:

        def tell(event: str, **details: object) -> None:
            stream.write(json.dumps({"event": event, **details}) + "\n")
            stream.flush()

        try:
            # Torch and plugins are imported here, so that a failure is reported, and not taken for
            # one of the kernel.
            from kernels_core.check.run.steps import STEPS

            STEPS[step](request, tell)
        except Exception:  # what the kernel raises was told of before
            tell("broken", text=traceback.format_exc())
        tell("done")
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of the kernel may still run, and must not keep the process.
    os._exit(0)


def _no_core_files() -> None:
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main(*sys.argv[1:])
