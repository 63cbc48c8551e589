"""Which version of Hugging Face `kernels` to report: programs require narrow ranges."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import NamedTuple

from kernels_core.errors import EnvironmentVariableError

VARIABLE = "KERNELS_COMPAT_VERSION"

DEFAULT = "0.17.2"
"""The version whose whole interface is provided."""

_VERSION = re.compile(r"[0-9]+\.[0-9]+(\.[0-9]+)?")
# The constant that transformers compares the installed version with.
_MINIMUM = re.compile(r'^KERNELS_MIN_VERSION\s*=\s*"([^"]+)"', re.MULTILINE)


def check_version(version: str) -> None:
    """Refuse what is not a version of Hugging Face `kernels`.

    Raises:
        ValueError: it does not have the form of one.
    """
    if not _VERSION.fullmatch(version):
        raise ValueError(
            f"{version!r} is not a version of Hugging Face `kernels`: expected one such as "
            f"{DEFAULT}."
        )


class Answer(NamedTuple):
    """A version, and why it is the one.

    Attributes:
        version: the version, for example "0.17.2".
        reason: where it comes from, for people.
    """

    version: str
    reason: str


def decide() -> Answer:
    """Decide by the environment, else by what the installed transformers needs, else the default.

    Raises:
        EnvironmentVariableError: `KERNELS_COMPAT_VERSION` is not a version.
    """
    chosen = os.environ.get(VARIABLE, "").strip()
    if chosen:
        try:
            check_version(chosen)
        except ValueError as error:
            raise EnvironmentVariableError(f"{VARIABLE}: {error}", variable=VARIABLE) from None
        return Answer(chosen, f"{VARIABLE} is set")
    needed = _needed_by_transformers()
    if needed is not None:
        return Answer(needed, "the installed transformers requires it")
    return Answer(DEFAULT, "the default")


def _needed_by_transformers() -> str | None:
    """The lowest version that transformers accepts, read from its source without importing it."""
    try:
        spec = importlib.util.find_spec("transformers")
    except (ImportError, ValueError):  # a broken or half imported package
        return None
    if spec is None or spec.origin is None:
        return None
    try:
        source = Path(spec.origin).parent.joinpath("utils", "import_utils.py").read_text("utf-8")
    except OSError:
        return None
    found = _MINIMUM.search(source)
    return found[1] if found and _VERSION.fullmatch(found[1]) else None
