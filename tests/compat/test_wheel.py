"""The distribution that answers `import kernels` with ordinary files."""

from __future__ import annotations

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
