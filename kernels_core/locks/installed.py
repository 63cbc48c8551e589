"""Finding the lock to use: the file that a program names, else the one in its caller's metadata.

A project's lock is part of the metadata of its distribution: setuptools puts it beside `METADATA`
(see `egg_info.py`), hatchling into a folder of its own.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

import attrs

from kernels_core.errors import LockFileError, LockFileNotFoundError
from kernels_core.locks.files import parse_lock, read_lock
from kernels_core.locks.lock import DIGESTS_NAME, LOCK_NAME, Lock

if TYPE_CHECKING:
    from importlib.metadata import Distribution

_FOLDERS = ("", "extra_metadata/")
_OURS = __name__.partition(".")[0]


@attrs.frozen
class Caller:
    """Code that loads a kernel.

    Attributes:
        module: its dotted name, also when it runs as `python -m`.
        file: the file that it is in; "" for code in no file.
    """

    module: str
    file: str = ""


def calling_code() -> Caller:
    """The code that called into this package: the first on the stack that is not part of it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__")
        # Methods that attrs generates belong to no module.
        if name is not None and name.partition(".")[0] != _OURS:
            # With `python -m package.module` the name is "__main__"; the spec has the real one.
            spec = frame.f_globals.get("__spec__")
            return Caller(spec.name if spec else name, frame.f_globals.get("__file__") or "")
        frame = frame.f_back
    return Caller("")


def find_lock(lockfile: Path | None = None, caller: Caller | None = None) -> Lock:
    """Read the lock file, or by default the lock in the metadata of the caller's distribution.

    The caller is by default the code that called into this package. Raises a LockFileNotFoundError
    when there is no lock, and a LockFileError when it is malformed.
    """
    if lockfile is not None:
        return read_lock(lockfile)
    return _installed_lock(caller or calling_code())


def find_same_lock(one: Caller, other: Caller) -> bool:
    """Whether the same lock is used for both callers, or the same problem keeps it from use."""
    return _lock_or_problem(one) == _lock_or_problem(other)


def _lock_or_problem(caller: Caller) -> Lock | Path | None:
    try:
        return _installed_lock(caller)
    except LockFileNotFoundError:
        return None
    except LockFileError as error:
        return error.path


# A program loads many kernels from one place, and searching the installed distributions takes
# milliseconds. What a running process installs is found by the next one.
@functools.lru_cache(maxsize=256)
def _installed_lock(caller: Caller) -> Lock:
    # Declaring a locked layer needs this module, and must not import importlib.metadata.
    from importlib import metadata

    for distribution in metadata.distributions():
        for folder in _FOLDERS:
            content = distribution.read_text(folder + LOCK_NAME)
            if content is not None and _contains(distribution, caller):
                digests = distribution.read_text(folder + DIGESTS_NAME)
                return parse_lock(
                    content.encode("utf-8", "surrogatepass"),
                    None if digests is None else digests.encode("utf-8", "surrogatepass"),
                    path=_path_in(distribution, folder + LOCK_NAME),
                )
    raise LockFileNotFoundError(
        f"No installed distribution contains both {caller.file or caller.module!r} and a "
        f"{LOCK_NAME}. Run 'kernels-core lock' in the project and reinstall it, with a build "
        f"backend that includes {LOCK_NAME} in the metadata; or pass lockfile=.",
        repository=LOCK_NAME,
        source=caller.module,
    )


def _path_in(distribution: Distribution, name: str) -> Path:
    # Distributions outside the file system have no path; their name is used instead.
    folder = getattr(distribution, "_path", None)
    return Path(str(folder or distribution.metadata["Name"]), name)


def _contains(distribution: Distribution, caller: Caller) -> bool:
    """Whether code is part of a distribution, by its file: several may share a package's name."""
    if not caller.file:
        return False
    file = os.path.realpath(caller.file)
    source = _editable_source(distribution)
    if source is not None:
        return _relative(file, source) is not None
    root = os.path.realpath(str(distribution.locate_file("")))
    relative = _relative(file, root)
    if relative is None:
        return False
    if distribution.read_text("RECORD") is not None:
        return relative in {path.as_posix() for path in distribution.files or ()}
    # A source tree on the path: its metadata lists all packages, but only some of the files.
    top_level = (distribution.read_text("top_level.txt") or "").split()
    return relative.partition("/")[0].removesuffix(".py") in top_level


def _editable_source(distribution: Distribution) -> str | None:
    """The source tree of a distribution that was installed as editable."""
    try:
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        if not origin["dir_info"]["editable"]:
            return None
        return os.path.realpath(url2pathname(urlsplit(origin["url"]).path))
    except (KeyError, TypeError, ValueError):
        return None


def _relative(file: str, folder: str) -> str | None:
    """The path of a file relative to a folder; None when it is not below the folder."""
    try:
        return Path(file).relative_to(folder).as_posix()
    except ValueError:
        return None
