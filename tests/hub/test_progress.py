"""Progress bars: on a terminal, for work that takes long, unless the Hub client's switch is off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Hub, kernel_files

pty = pytest.importorskip("pty", reason="needs the pseudo-terminals of Unix")


@pytest.fixture
def bundle(hub: Hub, tmp_path: Path) -> list[str]:
    """A command that downloads a large file and a small one, and writes them to a bundle."""
    large = kernel_files("large", also={"_ops.abi3.so": os.urandom(3_000_000)})
    hub.add("org/large", large, lfs=["build/torch-cpu/_ops.abi3.so"])
    hub.add("org/small", kernel_files("small"))
    kernels = ["org/large", "org/small", "--all-variants"]
    return [sys.executable, "-m", "kernels_core", "bundle", str(tmp_path / "b.zip"), *kernels]


def on_a_terminal(command: list[str], **variables: str) -> str:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    # Without a size there is no room for a bar.
    sized = ["sh", "-c", 'stty cols 120 rows 40; exec "$@"', "sh", *command]
    process = subprocess.Popen(
        sized, stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | variables
    )
    os.close(theirs)
    written = b""
    try:
        while chunk := os.read(ours, 65536):
            written += chunk
    except OSError:  # Linux says so at the end
        pass
    os.close(ours)
    assert process.wait() == 0, written.decode()
    return written.decode()


def test_a_terminal_shows_bars_for_what_is_large(bundle: list[str]) -> None:
    shown = on_a_terminal(bundle, HF_HUB_DISABLE_PROGRESS_BARS="0")
    assert "org/large (torch-cpu): 100%" in shown
    assert "Writing b.zip: 100%" in shown
    assert "org/small (torch-cpu): " not in shown


def test_the_switch_of_the_hub_client_turns_them_off(bundle: list[str]) -> None:
    shown = on_a_terminal(bundle, HF_HUB_DISABLE_PROGRESS_BARS="1")
    assert "%" not in shown
    assert "b.zip written" in shown


def test_without_a_terminal_there_are_none(bundle: list[str]) -> None:
    variables = {name: v for name, v in os.environ.items() if "PROGRESS" not in name}
    done = subprocess.run(bundle, env=variables, capture_output=True, text=True)
    assert done.returncode == 0
    assert "b.zip written" in done.stdout
    assert done.stderr == ""
