"""Ctrl-C ends what loads from the Hub at once, wherever it is, and leaves nothing half done."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, kernel_files

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends the signal of Ctrl-C")

# Seconds. Without interruption, what these programs wait for takes a minute and more.
STALL = 60
LIMIT = 5

CPU, GPU = "torch-cpu", "torch213-cxx11-cu130-x86_64-linux"
FILES = {f"part{number}.bin": bytes([number]) * 2000 for number in range(12)}

LOAD = """
from kernels_core import get_kernel
get_kernel("org/name", version=1, backend="cpu")
"""
KERNELIZE = """
import warnings
import torch
import kernels_core
from kernels_core import LayerRepository, Mode
mapping = {}
for number in range(3):
    cls = type(f"Layer{number}", (torch.nn.Module,), {"forward": lambda self, x: x})
    kernels_core.replace_kernel_forward_from_hub(cls, cls.__name__)
    mapping[cls.__name__] = {"cpu": LayerRepository(f"org/layer{number}", "Layer", version=1)}
    globals()[cls.__name__] = cls
model = torch.nn.Sequential(Layer0(), Layer1(), Layer2())
kernels_core.kernelize(model, mode=Mode.INFERENCE, device="cpu", mapping=mapping)
"""


@pytest.fixture
def project(hub: Hub, tmp_path: Path) -> Iterator[Path]:
    """A project whose lock has one kernel of many files."""
    hub.add("org/name", kernel_files("name", also=FILES), branch="v1")
    for number in range(3):
        hub.add(f"org/layer{number}", kernel_files(f"layer{number}"), branch="v1")
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pyproject.toml").write_text('[tool.kernels.dependencies]\n"org/name" = 1\n')
    subprocess.run(command("lock", folder), check=True, capture_output=True)
    hub.forget()
    yield folder
    hub.heal()


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "kernels_core", *map(str, arguments)]


def interrupted(program: list[str], hub: Hub, kind: str) -> tuple[int, str, float]:
    """Press Ctrl-C while a program waits for a request of some kind: status, output, seconds."""
    with subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        end = time.monotonic() + 60
        while kind not in {request.kind for request in hub.requests}:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end, f"no {kind} was requested"
            time.sleep(0.02)
        time.sleep(0.3)  # the other requests of the same kind
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=2 * STALL)[0]
        return process.returncode, output, time.monotonic() - start


def left_over(folder: Path) -> list[Path]:
    """Files of downloads that did not end."""
    return [path for path in folder.rglob("*") if ".incomplete" in path.name]


@pytest.mark.parametrize("kind", ["refs", "organization", "tree", "file"])
@pytest.mark.parametrize("fault", ["stall", "stall-body"])
def test_loading_a_kernel(hub: Hub, project: Path, tmp_path: Path, kind: str, fault: str) -> None:
    shutil.rmtree(tmp_path / "hf-home", ignore_errors=True)
    hub.fault(fault, kind, times=None, seconds=STALL)
    status, output, seconds = interrupted([sys.executable, "-c", LOAD], hub, kind)
    assert (status, seconds < LIMIT) == (-signal.SIGINT, True), (seconds, output)
    assert output.rstrip().endswith("KeyboardInterrupt"), output
    assert not left_over(tmp_path / "hf-home")
    hub.heal()
    subprocess.run([sys.executable, "-c", LOAD], check=True, timeout=60)


def test_kernelizing_a_model(hub: Hub, project: Path) -> None:
    pytest.importorskip("torch")
    hub.fault("stall", "file", times=None, seconds=STALL)
    status, output, seconds = interrupted([sys.executable, "-c", KERNELIZE], hub, "file")
    assert (status, seconds < LIMIT) == (-signal.SIGINT, True), (seconds, output)


@pytest.mark.parametrize("name", ["download", "bundle", "lock", "check"])
def test_commands(hub: Hub, project: Path, tmp_path: Path, name: str) -> None:
    bundle = tmp_path / "kernels.tar.gz"
    programs = {
        "download": (command("download", project, "--all-variants"), "file"),
        "bundle": (command("bundle", bundle, "org/name@1", "--all-variants"), "file"),
        "lock": (command("lock", project, "--upgrade"), "refs"),
        "check": (command("check", "org/name"), "file"),
    }
    program, kind = programs[name]
    shutil.rmtree(tmp_path / "hf-home", ignore_errors=True)
    hub.fault("stall-body", kind, times=None, seconds=STALL)
    before = sorted(project.iterdir())
    status, output, seconds = interrupted(program, hub, kind)
    assert (status, seconds < LIMIT) == (130, True), (seconds, output)
    assert output.strip() == "Interrupted."
    assert not left_over(tmp_path)
    assert not bundle.exists()
    assert sorted(project.iterdir()) == before


AGAIN = """
import os, sys
from kernels_core import get_kernel
def load():
    return get_kernel("org/name", version=1, backend="cpu").answer
try:
    load()
except KeyboardInterrupt:
    print("interrupted", flush=True)
sys.stdin.readline()
child = os.fork()
if child == 0:
    os._exit(load())
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), load())
"""


@pytest.mark.parametrize("kind", ["refs", "file"])
def test_a_process_that_goes_on_loads_again_and_so_does_its_fork(
    hub: Hub, project: Path, tmp_path: Path, kind: str
) -> None:
    shutil.rmtree(tmp_path / "hf-home", ignore_errors=True)
    hub.fault("stall-body", kind, times=None, seconds=STALL)
    process = subprocess.Popen(
        [sys.executable, "-c", AGAIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while kind not in {request.kind for request in hub.requests}:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "interrupted\n"
    hub.heal()  # what is on its way stays as it is
    assert process.communicate("\n", timeout=STALL / 2)[0] == "42 42\n"


def test_waiting_for_another_process(hub: Hub, project: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "hf-home", ignore_errors=True)
    hub.fault("stall-body", "file", times=1, seconds=STALL)
    first = subprocess.Popen([sys.executable, "-c", LOAD], stderr=subprocess.DEVNULL)
    try:
        while not any(request.kind == "file" for request in hub.requests):
            time.sleep(0.02)
        hub.forget()
        status, output, seconds = interrupted([sys.executable, "-c", LOAD], hub, "organization")
        assert (status, seconds < LIMIT) == (-signal.SIGINT, True), (seconds, output)
    finally:
        first.kill()
        first.wait()
