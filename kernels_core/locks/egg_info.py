"""Copies a project's lock into the metadata of its distribution when setuptools builds it.

setuptools calls `write` through the entry points of the group `egg_info.writers`, for every project
that is built in an environment with this package. So this module imports next to nothing, and does
nothing for projects without kernels.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

# As in `locks.lock`, which imports more than this module should.
_NAMES = frozenset({"kernels.lock", "kernels.lock.digests.json"})
_TABLE = "[tool.kernels.dependencies]"


def write(command: Any, basename: str, filename: str) -> None:
    """Copy one file of a project's lock into its metadata. Called by setuptools.

    Args:
        command: the command of setuptools that makes the metadata.
        basename: name of the file, which is that of the entry point.
        filename: the file to write.
    """
    content = _text(basename) if basename in _NAMES else ""
    if not content and basename == "kernels.lock" and _TABLE in _text("pyproject.toml"):
        logging.getLogger(__name__).warning(
            "pyproject.toml requires kernels, but there is no kernels.lock, so the package will "
            "not find its kernels. Run 'kernels-core lock' before building it."
        )
    # Without content and by force, what an earlier build left is removed.
    command.write_or_delete_file(basename, filename, content, force=True)


def _text(name: str) -> str:
    path = Path(name)
    return path.read_text("utf-8") if path.is_file() else ""
