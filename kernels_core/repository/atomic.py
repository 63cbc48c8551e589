"""Writing files and directories atomically."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

# By process: a fork inherits the paths of its parent, which still needs them.
_unfinished: dict[int, set[Path]] = {}


@contextlib.contextmanager
def replacing(path: Path, prefix: str = "", suffix: str | None = None) -> Iterator[Path]:
    """Yield a new path beside `path`, which is renamed to `path` at the end of the block.

    If the block fails, `path` stays as it was and nothing is left beside it. The new name starts
    with `prefix`, and ends with `suffix` or else with the name of `path`. No other thread, process
    or machine has the same one, since locks do nothing on some network file systems. If the process
    ends while another thread is in the block, the new path is removed as well.
    """
    ending = f".{path.name}" if suffix is None else suffix
    new = path.with_name(f"{prefix}.{uuid.uuid4().hex[:8]}{ending}")
    unfinished = _unfinished.setdefault(os.getpid(), set())
    unfinished.add(new)
    try:
        yield new
        os.replace(new, path)
    finally:
        _remove(new)
        unfinished.discard(new)


@atexit.register
def _remove_unfinished() -> None:
    for path in tuple(_unfinished.get(os.getpid(), ())):
        with contextlib.suppress(OSError):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
