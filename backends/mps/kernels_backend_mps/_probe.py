"""The only module of this backend that queries the machine. It returns raw values."""

from __future__ import annotations

import os
import subprocess

import attrs


@attrs.frozen
class Support:
    """What torch reports about MPS.

    Attributes:
        built: whether torch was built with it.
        available: whether torch can use it here.
    """

    built: bool
    available: bool = False


@attrs.frozen
class Mac:
    """What macOS reports.

    Attributes:
        macos: its product version, for example "26.1".
        processor: the processor's name, for example "Apple M4 Max".
    """

    macos: str
    processor: str


def support() -> Support:
    """Query torch, which looks for a Metal device and creates no command queue."""
    import torch

    if not torch.backends.mps.is_built():
        return Support(built=False)
    return Support(built=True, available=torch.backends.mps.is_available())


def mac() -> Mac:
    """Query macOS. Works on macOS only.

    Uses Apple's own tools, because a Python that was built with an older SDK gets 16 as the version
    of macOS 26 (https://github.com/python/cpython/issues/135675).
    """
    return Mac(
        macos=_output("/usr/bin/sw_vers", "-productVersion"),
        processor=_output("/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"),
    )


def _output(*command: str) -> str:
    environment = {**os.environ, "SYSTEM_VERSION_COMPAT": "0"}
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()
