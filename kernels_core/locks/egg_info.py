"""Puts a project's lock into the metadata of its distribution when setuptools builds it.

setuptools calls `write` through the entry points of the group `egg_info.writers`, for every project
that is built where this package is installed. So it imports next to nothing, and minds projects
that have nothing to do with kernels not at all.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

# As in `locks`, which imports more than this should.
_NAMES = frozenset({"kernels.lock", "kernels.lock.digests.json"})
_TABLE = "[tool.kernels.dependencies]"


def write(command: Any, basename: str, filename: str) -> None:
    """Copy one file of a project's lock into its metadata; called by setuptools.

    Args:
        command: the command of setuptools that makes the metadata.
        basename: name of the file, which is that of the entry point.
        filename: where to write it.
    """
    content = _text(basename) if basename in _NAMES else ""
    if not content and basename == "kernels.lock" and _TABLE in _text("pyproject.toml"):
        logging.getLogger(__name__).warning(
            "pyproject.toml asks for kernels, and there is no kernels.lock: what is built will not "
            "find its kernels. Run 'kernels-core lock' first."
        )
    # Without content and by force, what an earlier build left is removed.
    command.write_or_delete_file(basename, filename, content, force=True)


def _text(name: str) -> str:
    path = Path(name)
    return path.read_text("utf-8") if path.is_file() else ""
