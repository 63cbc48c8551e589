"""Which lock counts: the file that a program names, else the one in its caller's metadata.

A project's lock travels in the metadata of its distribution: setuptools puts it beside `METADATA`
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
    """Code that asks for a kernel.

    Attributes:
        module: its dotted name, also where it runs as `python -m`.
        file: where it stands; "" for code that stands in no file.
    """

    module: str
    file: str = ""


def calling_code() -> Caller:
    """The code that called into this package: the first on the stack that is not part of it.

    Example:
        >>> eval("calling_code()", {"calling_code": calling_code, "__name__": "acme.train"})
        Caller(module='acme.train', file='')
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__")
        # Methods that attrs generates belong to no module.
        if name is not None and name.partition(".")[0] != _OURS:
            # With `python -m package.module` the name is "__main__", and the spec knows better.
            spec = frame.f_globals.get("__spec__")
            return Caller(spec.name if spec else name, frame.f_globals.get("__file__") or "")
        frame = frame.f_back
    return Caller("")


def find_lock(lockfile: Path | None = None, caller: Caller | None = None) -> Lock:
    """Read the lock that counts.

    Args:
        lockfile: the lock file; None for the one in the metadata of the caller's distribution.
        caller: who asks; None for the code that called into this package.

    Raises:
        LockFileNotFoundError: there is no lock file at the path, or none in the metadata.
        LockFileError: the lock is malformed.
    """
    if lockfile is not None:
        return read_lock(lockfile)
    return _installed_lock(caller or calling_code())


def find_same_lock(one: Caller, other: Caller) -> bool:
    """Whether it makes no difference to which lock counts, which of two asks.

    Args:
        one: code that asks for a kernel.
        other: other such code.

    Example:
        >>> find_same_lock(Caller("__main__"), Caller("__console__"))
        True
    """
    return _lock_or_problem(one) == _lock_or_problem(other)


def _lock_or_problem(caller: Caller) -> Lock | Path | None:
    try:
        return _installed_lock(caller)
    except LockFileNotFoundError:
        return None
    except LockFileError as error:
        return error.path


# A program asks for many kernels from one place, and looking through what is installed takes
# milliseconds. What is installed later by a running process counts in the next one.
@functools.lru_cache(maxsize=256)
def _installed_lock(caller: Caller) -> Lock:
    from importlib import metadata

    for distribution in metadata.distributions():
        for folder in _FOLDERS:
            content = distribution.read_text(folder + LOCK_NAME)
            if content is not None and _brings(distribution, caller):
                digests = distribution.read_text(folder + DIGESTS_NAME)
                return parse_lock(
                    content.encode("utf-8", "surrogatepass"),
                    None if digests is None else digests.encode("utf-8", "surrogatepass"),
                    path=_path_in(distribution, folder + LOCK_NAME),
                )
    raise LockFileNotFoundError(
        f"No installed distribution brings both {caller.file or caller.module!r} and a lock of "
        f"kernels. Run 'kernels-core lock' in the project and reinstall it, with a build that puts "
        f"{LOCK_NAME} into its metadata; or pass lockfile=.",
        repository=LOCK_NAME,
        source=caller.module,
    )


def _path_in(distribution: Distribution, name: str) -> Path:
    # Distributions that lie in no directory have no path; then the name must do.
    folder = getattr(distribution, "_path", None)
    return Path(str(folder or distribution.metadata["Name"]), name)


def _brings(distribution: Distribution, caller: Caller) -> bool:
    """Whether code is part of a distribution.

    Asked by file and not by the name of the package, which several distributions may share.
    """
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
    # A source tree that is on the path: its metadata names packages, and files only in part.
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
    """Where a file lies below a folder; None when it lies elsewhere."""
    try:
        return Path(file).relative_to(folder).as_posix()
    except ValueError:
        return None
