"""`kernels-core doctor` with torch. Plugins are tested in tests/installed/test_doctor.py."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import attrs
import pytest

from kernels_core import __version__
from kernels_core.cli.doctor import Diagnosis
from kernels_core.cli.hardware import SeenDevice, seen_devices, unserved_devices

OURS = ["cpu", "cuda", "mps", "rocm", "xpu"]


@pytest.fixture(scope="module")
def process(command_line):
    """The command as JSON."""
    return command_line.run("doctor", "--json")


def test_json_is_one_object_with_the_documented_keys(process):
    diagnosis = json.loads(process.stdout)
    assert list(diagnosis) == [attribute.name for attribute in attrs.fields(Diagnosis)]
    guide = (Path(__file__).parents[2] / "docs" / "guide.md").read_text("utf-8")
    for key in diagnosis:
        assert f"| `{key}` |" in guide
    assert process.stderr == ""


def test_our_backends_are_healthy(process):
    diagnosis = json.loads(process.stdout)
    assert (process.returncode, diagnosis["healthy"]) == (0, True)
    assert diagnosis["kernels_core"] == __version__
    assert diagnosis["host"]["python"] == list(sys.version_info[:2])
    reports = {report["name"]: report for report in diagnosis["backends"]}
    for name in OURS:
        assert reports[name]["distribution"] == f"kernels-backend-{name} {__version__}"
    for report in reports.values():
        assert bool(report["devices"]) == report["available"] == (report["reason"] == "")
    assert reports["cpu"]["devices"][0]["features"]
    assert "RMSNorm" in reports["cpu"]["layers"]
    assert diagnosis["active"]["cpu"]["backend"] == "cpu"
    assert diagnosis["failures"] == diagnosis["problems"] == []


def test_the_text_says_the_same(command_line):
    process = command_line.run("doctor")
    assert process.returncode == 0
    lines = process.stdout.splitlines()
    assert lines[0] == f"kernels-core {__version__}:"
    assert lines[-1] == "Healthy."
    for name in OURS:
        assert any(
            line.startswith(f"  {name} (kernels-backend-{name} {__version__})") for line in lines
        )
    assert any(line.startswith("  cpu:0 ") and "features" in line for line in lines)
    assert "\x1b" not in process.stdout


def test_it_runs_as_a_module_too(command_line):
    process = command_line.run("--version", start=(sys.executable, "-m", "kernels_core"))
    assert process.stdout.strip().endswith(__version__)
    assert command_line.run("--version").stdout.strip().endswith(__version__)


def test_a_torch_that_cannot_be_imported(command_line, tmp_path):
    error = "raise OSError('libcudart.so.13: cannot open shared object file')"
    (tmp_path / "torch.py").write_text(error, encoding="utf-8")
    process = command_line.run("doctor", "--json", PYTHONPATH=str(tmp_path))
    diagnosis = json.loads(process.stdout)
    assert (process.returncode, diagnosis["host"]) == (1, None)
    assert "libcudart.so.13" in diagnosis["problems"][0]["message"]
    assert str(tmp_path / "torch.py") in diagnosis["problems"][0]["traceback"]
    # No plugin is to blame.
    assert diagnosis["failures"] == []
    assert {report["name"] for report in diagnosis["backends"]} >= set(OURS)
    assert "libcudart.so.13" in command_line.run("doctor", PYTHONPATH=str(tmp_path)).stdout


def test_paths_without_a_home_directory(command_line):
    variables = {"KERNELS_CACHE": "~/cache", "KERNELS_TRUST_FILE": "~/trust.toml"}
    process = command_line.run("doctor", "--json", HOME="", USERPROFILE="", **variables)
    diagnosis = json.loads(process.stdout)
    assert (process.returncode, diagnosis["environment"]) == (1, variables)
    messages = " ".join(problem["message"] for problem in diagnosis["problems"])
    assert "KERNELS_CACHE='~/cache'" in messages
    assert "KERNELS_TRUST_FILE='~/trust.toml'" in messages


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this system has no pseudo-terminals")
def test_in_a_terminal_it_keeps_to_its_width(command_line):
    import fcntl
    import struct
    import subprocess
    import termios

    leader, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 72, 0, 0))
    script = Path(sys.executable).with_name("kernels-core")
    subprocess.run([script, "doctor"], stdout=terminal, check=True)
    os.close(terminal)
    output = b""
    while chunk := read(leader):
        output += chunk
    lines = output.decode().splitlines()
    assert any(line.startswith("\x1b[1m") for line in lines)
    assert max(map(len, lines)) <= 72


def read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # on Linux, when the other end is closed
        return b""


# Hardware


class FakeAccelerator:
    def __init__(self, kind):
        self.kind = kind

    def is_available(self):
        return self.kind is not None

    def current_accelerator(self):
        import torch

        return torch.device(self.kind)


class FakeModule:
    @staticmethod
    def get_device_name(index):
        return "Instinct MI300X"


@pytest.mark.parametrize(
    ("hip", "backend"), [(None, "cuda"), ("7.1.25424", "rocm")], ids=["cuda", "rocm"]
)
def test_the_accelerator_that_torch_sees(monkeypatch, hip, backend):
    import torch

    monkeypatch.setattr(torch, "accelerator", FakeAccelerator("cuda"))
    monkeypatch.setattr(torch, "get_device_module", lambda kind: FakeModule)
    monkeypatch.setattr(torch.version, "hip", hip)
    _, seen = seen_devices()
    assert seen == SeenDevice("cuda", backend, "Instinct MI300X")


def test_without_an_accelerator_there_is_the_processor(monkeypatch):
    import torch

    monkeypatch.setattr(torch, "accelerator", FakeAccelerator(None))
    assert [seen.torch_device_type for seen in seen_devices()] == ["cpu"]
    monkeypatch.delattr(torch, "accelerator")
    assert [seen.torch_device_type for seen in seen_devices()] == ["cpu"]


@pytest.mark.parametrize(
    ("serving", "installed", "advice"),
    [
        ([], [], "pip install kernels-backend-rocm"),
        ([], ["cuda"], "pip install kernels-backend-rocm"),
        ([], ["rocm"], None),
        (["cuda"], [], None),
    ],
)
def test_what_to_install(serving, installed, advice):
    gpu = SeenDevice("cuda", "rocm", "Instinct MI300X")
    unserved = unserved_devices([gpu], serving, installed)
    assert [device.advice for device in unserved] == ([advice] if advice else [])
