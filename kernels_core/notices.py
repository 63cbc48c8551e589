"""What users should know though nothing fails, said once per process.

A notice is a `RuntimeWarning` at the caller's line, and a warning of the logger `kernels_core`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Hashable

_said: dict[Hashable, object] = {}

before_saying: list[Callable[[], object]] = []
"""Functions that remove from the terminal what is only shown for a moment, such as progress."""


def is_new(about: Hashable) -> bool:
    """Whether nothing was said about this before; from now on, something was."""
    here = object()
    return _said.setdefault(about, here) is here  # of two threads, one


def say(text: str) -> None:
    """Warn the caller of this package."""
    for remove in before_saying:
        remove()
    # Imported here, so that declaring layers does not need it.
    import logging

    logger = logging.getLogger("kernels_core")
    # Where no logging is configured, Python would print the text a second time.
    if logger.hasHandlers():
        logger.warning(text)
    warnings.warn(text, RuntimeWarning, stacklevel=_level_of_caller())


def say_once(about: Hashable, text: str) -> None:
    """Warn the caller of this package, unless something was said about this before."""
    if is_new(about):
        say(text)


def _level_of_caller() -> int:
    frame = sys._getframe(1)
    level = 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_PACKAGES):
        frame, level = frame.f_back, level + 1
    return level


# torch calls us where it converts a module, and contextlib at the end of a block.
_PACKAGES = ("kernels_core.", "contextlib", "torch.nn.modules.")
