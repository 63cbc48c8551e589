"""What unpickling in another process says of a kernel that is not loaded there.

Python pickles a function or class as the name of its module. The module of a kernel's build exists
only where the kernel was loaded, and its name does not tell from where: a pickle must not decide
which code is run.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # see kernels_core/__init__.py
if TYPE_CHECKING:
    from typing import Any

PREFIX = "kernel_build_"
"""How the names of the modules of builds begin; sixteen hexadecimal digits are the end."""


class _NotLoaded:
    """The last finder that the import system calls, for modules that no other one has found."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        digest = fullname.rpartition("_")[2]
        if path is None and fullname.startswith(PREFIX) and _is_digest(digest):
            raise ModuleNotFoundError(
                f"No module named {fullname!r}: it is a kernel that is not loaded in this process. "
                f"A function or class of a kernel can be sent to another process only if that has "
                f"loaded the same kernel before, for example with get_kernel at the top of the "
                f"script. Or send a function of your own, which calls get_kernel.",
                name=fullname,
            )


def _is_digest(text: str) -> bool:
    return len(text) == 16 and set(text) <= set("0123456789abcdef")


def explain_missing_kernels() -> None:
    """Say more than "No module named ..." where a pickle refers to a kernel."""
    if not any(isinstance(finder, _NotLoaded) for finder in sys.meta_path):
        sys.meta_path.append(_NotLoaded())
