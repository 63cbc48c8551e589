"""Progress bars: on a terminal, and nowhere else."""

from __future__ import annotations

import os
import struct
import subprocess
import sys

import pytest
from hub_server import Hub, kernel_files

pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
fcntl = pytest.importorskip("fcntl")
termios = pytest.importorskip("termios")

PROGRAM = "from kernels_core import install_kernel; install_kernel('org/activation')"


def shown(hub: Hub, *, terminal: bool, switched_off: str) -> str:
    """What a process that downloads a kernel writes to standard error."""
    hub.add("org/activation", kernel_files(also={"weights.bin": bytes(1 << 20)}), lfs=["*.bin"])
    ours, its = pty.openpty() if terminal else os.pipe()
    if terminal:
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 100, 0, 0))
    try:
        command = [sys.executable, "-c", PROGRAM]
        environment = os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": switched_off, "TERM": "xterm"}
        subprocess.run(command, stderr=its, env=environment, check=True, timeout=120)
        os.set_blocking(ours, False)
        return os.read(ours, 1 << 16).decode()
    except BlockingIOError:
        return ""
    finally:
        os.close(ours)
        os.close(its)


@pytest.mark.parametrize(
    ("terminal", "switched_off", "bar"),
    [(True, "0", True), (True, "1", False), (False, "0", False)],
)
def test_a_download_shows_a_bar_on_a_terminal_unless_it_is_switched_off(
    hub: Hub, terminal: bool, switched_off: str, bar: bool
) -> None:
    text = shown(hub, terminal=terminal, switched_off=switched_off)
    assert ("org/activation (torch-cpu)" in text) == bar
    assert ("100%" in text) == bar
