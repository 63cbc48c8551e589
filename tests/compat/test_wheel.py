"""The distribution that answers `import kernels` with ordinary files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kernels_core.compat.wheel import write_wheel

Run = Callable[..., str]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with the wheel installed by pip."""
    wheel = write_wheel("0.18.2", tmp_path / "wheels")
    folder = tmp_path / "site"
    command = ["install", "--quiet", "--no-deps", "--no-index", "--target", str(folder), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *command], check=True)
    return folder


def test_programs_get_kernels_core(run: Run, site: Path) -> None:
    program = """
import importlib.metadata
import kernels
from kernels.layer.mode import Mode

print(kernels.__file__)
print(kernels.__version__, importlib.metadata.version("kernels"), kernels.Device.__module__)
print(importlib.metadata.requires("kernels"))
"""
    file, versions, requires = run(program, activate=False, path=(site,)).splitlines()
    assert Path(file) == site / "kernels" / "__init__.py"
    assert versions == "0.18.2+core 0.18.2+core kernels_core.device"
    assert "kernels-core>=" in requires
    info = site / "kernels-0.18.2+core.dist-info"
    assert "Apache License" in (info / "licenses" / "LICENSE").read_text("utf-8")


def test_equal_content_makes_equal_files(tmp_path: Path) -> None:
    one, other = (write_wheel("0.17.2", tmp_path / name) for name in ("a", "b"))
    assert one.read_bytes() == other.read_bytes()


def test_what_is_not_a_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'0\.18\.2; rm' is not a version"):
        write_wheel("0.18.2; rm", tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_wheel_and_activation_at_once_are_refused(run: Run, site: Path) -> None:
    program = """
import kernels_core.compat
from kernels_core.errors import CompatError

try:
    kernels_core.compat.activate()
except CompatError as error:
    print(error)
"""
    printed = run(program, activate=False, path=(site,))
    assert "kernels 0.18.2+core" in printed
    assert "pip uninstall kernels" in printed


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kernels_core", *arguments], capture_output=True, text=True
    )


def test_the_command_writes_it(tmp_path: Path) -> None:
    done = command("compat", "wheel", "--version", "0.18.2", "-o", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    path = Path(json.loads(done.stdout)["wheel"])
    assert path == tmp_path / "kernels-0.18.2+core-py3-none-any.whl"
    assert path.read_bytes() == write_wheel("0.18.2", tmp_path / "other").read_bytes()


def test_the_command_refuses_what_is_not_a_version(tmp_path: Path) -> None:
    done = command("compat", "wheel", "--version", "newest", "-o", str(tmp_path))
    assert done.returncode == 2
    assert "'newest' is not a version of Hugging Face `kernels`" in done.stderr
