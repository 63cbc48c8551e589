"""Writing files and directories atomically."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path, prefix: str = "", suffix: str | None = None) -> Iterator[Path]:
    """Yield a new path beside `path`, which is renamed to `path` at the end of the block.

    If the block fails, `path` stays as it was and nothing is left beside it. The new name starts
    with `prefix`, and ends with `suffix` or else with the name of `path`. No other thread, process
    or machine has the same one, since locks do nothing on some network file systems.
    """
    ending = f".{path.name}" if suffix is None else suffix
    new = path.with_name(f"{prefix}.{uuid.uuid4().hex[:8]}{ending}")
    try:
        yield new
        os.replace(new, path)
    finally:
        _remove(new)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
