"""One line of progress: on a terminal, for what takes longer than a moment, and nowhere else."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_server import Hub, kernel_files

pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
fcntl = pytest.importorskip("fcntl")
termios = pytest.importorskip("termios")

WIDTH = 100
LOAD = "from kernels_core import install_kernel; install_kernel('org/activation', version=1)"
DOWNLOAD = ["-m", "kernels_core", "download"]


class Terminal:
    """A program whose standard error is a terminal."""

    def __init__(self, arguments: list[str], width: int = WIDTH, **variables: str) -> None:
        self._ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 25, width, 0, 0))
        environment = os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "0", "TERM": "xterm"}
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=its,
            env=environment | variables,
        )
        os.close(its)
        self.text = ""

    def read(self) -> bool:
        """Read what was written since; False at the end."""
        try:
            chunk = os.read(self._ours, 1 << 16)
        except OSError:  # on Linux, when the other end is closed
            chunk = b""
        self.text += chunk.decode()
        return bool(chunk)

    def wait_for(self, text: str) -> None:
        while text not in self.text:
            assert self.read(), self.text

    def finish(self) -> str:
        """All that it wrote."""
        while self.read():
            pass
        os.close(self._ours)
        self.process.wait(timeout=60)
        return self.text

    def screen(self) -> list[str]:
        """The lines that a user sees at the end."""
        shown = []
        for line in self.text.replace("\r\n", "\n").split("\n"):
            cells: list[str] = []
            for part in line.split("\r"):
                cells[: len(part)] = part
            shown.append("".join(cells).rstrip())
        return [line for line in shown if line]


def finished(*arguments: str, **variables: str) -> Terminal:
    terminal = Terminal(list(arguments), WIDTH, **variables)
    terminal.finish()
    assert terminal.process.returncode == 0, terminal.text
    return terminal


@pytest.fixture
def slow(hub: Hub) -> Hub:
    """A Hub that needs about two seconds for a kernel."""
    hub.add("org/activation", kernel_files(also={"w.bin": bytes(400_000)}), branch="v1")
    hub.bandwidth = 200_000
    return hub


def test_a_slow_download_is_one_line_with_bytes(slow: Hub) -> None:
    terminal = finished("-c", LOAD)
    assert re.search(r"Downloading org/activation: +\d+%.* \d+k/40\d", terminal.text), terminal.text
    assert len(terminal.screen()) == 1, terminal.text
    assert terminal.screen()[0].startswith("Downloading org/activation: 100%"), terminal.text


def test_a_quick_download_shows_nothing(hub: Hub) -> None:
    hub.add("org/activation", kernel_files(also={"w.bin": bytes(1 << 20)}), branch="v1")
    # On a busy machine, nothing is quick.
    quick = f"from kernels_core.hub import progress; progress._DELAY = 10; {LOAD}"
    assert finished("-c", quick).text == ""


def test_what_is_in_the_cache_shows_nothing(slow: Hub) -> None:
    finished("-c", LOAD)
    assert finished("-c", LOAD, HF_HUB_OFFLINE="1").text == ""


def test_it_is_switched_off_as_that_of_the_client_and_by_quiet(slow: Hub, tmp_path: Path) -> None:
    assert finished("-c", LOAD, HF_HUB_DISABLE_PROGRESS_BARS="1").text == ""
    arguments = [*DOWNLOAD, "--quiet", "--all-variants", "org/activation@1"]
    assert finished(*arguments, KERNELS_CACHE=str(tmp_path / "other")).text == ""


def test_a_pipe_gets_none(slow: Hub) -> None:
    environment = os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "0"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD], env=environment, capture_output=True, check=True
    )
    assert (done.stdout, done.stderr) == (b"", b"")


def test_all_downloads_of_a_command_share_it(slow: Hub) -> None:
    for name in ("norms", "rotary"):
        files = kernel_files(name) | kernel_files(name, variant="torch-cuda")
        slow.add(f"org/{name}", files | {"build/torch-cpu/w.bin": bytes(100_000)})
    names = ["org/activation@1", "org/norms", "org/rotary"]
    terminal = finished(*DOWNLOAD, "--all-variants", *names)
    line = terminal.screen()[-1]
    assert terminal.screen() == [line], terminal.text
    assert line.startswith("Downloading 3 kernels: 100%"), terminal.text
    assert "60" in line


@pytest.mark.parametrize("kind", ["refs", "tree", "file"])
def test_it_appears_while_the_hub_does_not_answer_and_is_gone_after_ctrl_c(
    hub: Hub, kind: str
) -> None:
    hub.add("org/activation", kernel_files(), branch="v1")
    hub.fault("stall", kind, times=None, seconds=30)
    terminal = Terminal([*DOWNLOAD, "--all-variants", "org/activation@1"])
    terminal.wait_for("Downloading")
    asked = next(request for request in hub.requests if request.kind == kind)
    assert time.monotonic() - asked.started < 5
    terminal.process.send_signal(signal.SIGINT)
    terminal.finish()
    assert terminal.process.returncode == 130
    assert terminal.screen() == ["Interrupted."], terminal.text


def test_what_is_logged_meanwhile_has_a_line_of_its_own(hub: Hub) -> None:
    hub.add("org/activation", kernel_files(), branch="v1")
    hub.fault("stall", "refs", times=1, seconds=1.5)
    hub.fault("429", "tree", times=1, retry_after="1")
    terminal = finished("-c", LOAD)
    line, *_, end = terminal.screen()
    assert line.startswith("Waiting "), terminal.text
    assert len(terminal.screen()) == 2, terminal.text
    assert end.startswith("Downloading org/activation: 100%"), terminal.text


def test_a_narrow_terminal_is_not_wrapped(slow: Hub) -> None:
    terminal = Terminal(["-c", LOAD], width=30)
    text = terminal.finish()
    assert "Downloading" in text
    assert max(map(len, re.split(r"[\r\n]+", text))) < 30


def test_a_closed_standard_error_is_no_reason_to_fail(slow: Hub) -> None:
    program = f"import sys, os; sys.stderr.close(); {LOAD}; sys.stderr = None"
    assert finished("-c", program).text == ""


def test_bundles_are_written_unpacked_and_verified_with_it(tmp_path: Path, hub: Hub) -> None:
    program = """
from kernels_core.hub import progress
progress._DELAY = 0.0
progress._INTERVAL = 0.01
from kernels_core.cli.main import main
main({arguments!r})
"""
    hub.add("org/activation", kernel_files(also={"w.bin": os.urandom(20_000_000)}), branch="v1")
    archive, folder = tmp_path / "kernels.tar.gz", tmp_path / "kernels"
    steps = {
        "Writing kernels.tar.gz": ["bundle", str(archive), "org/activation@1", "--all-variants"],
        "Unpacking kernels.tar.gz": ["unbundle", str(archive), str(folder)],
        "Verifying kernels": ["unbundle", str(folder)],
        "hf-home/hub": ["cache", "verify"],
    }
    for what, arguments in steps.items():
        terminal = finished("-c", program.format(arguments=arguments))
        assert what in terminal.screen()[-1], terminal.text
        assert "100%" in terminal.screen()[-1], terminal.text
