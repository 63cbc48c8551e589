"""Our packages as a user has them: built as wheels and installed into an empty environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
BROKEN = Path(__file__).parent / "broken"


class Wheel:
    """A built wheel and the folder of its sources."""

    def __init__(self, path: Path, source: Path):
        self.path = path
        self.source = source
        with zipfile.ZipFile(path) as archive:
            self.files = archive.namelist()
            self.metadata: Message = message_from_bytes(self._read(archive, "METADATA"))
            has_entry_points = any(name.endswith("entry_points.txt") for name in self.files)
            self.entry_points = (
                self._read(archive, "entry_points.txt").decode() if has_entry_points else ""
            )
        self.name = canonicalize_name(self.metadata["Name"])
        self.version: str = self.metadata["Version"]
        self.requirements = [Requirement(r) for r in self.metadata.get_all("Requires-Dist", [])]

    def _read(self, archive: zipfile.ZipFile, name: str) -> bytes:
        (member,) = [file for file in self.files if file.endswith(f".dist-info/{name}")]
        return archive.read(member)


class Environment:
    """A virtual environment, far from the checkout."""

    def __init__(self, folder: Path):
        self.folder = folder
        venv.create(folder, with_pip=True)
        bin_folder = "Scripts" if os.name == "nt" else "bin"
        self.python = folder / bin_folder / Path(sys.executable).name

    def install(self, *arguments: str | Path) -> None:
        self._run("-m", "pip", "install", "--quiet", *map(str, arguments))

    def run(self, code: str, **variables: str) -> Any:
        """Run a program that calls `tell(value)`, and return that value."""
        program = "import json\ndef tell(value): print(json.dumps(value))\n" + code
        return json.loads(self._run("-c", program, **variables))

    def _run(self, *arguments: str, **variables: str) -> str:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("KERNELS_", "PYTHON"))}
        process = subprocess.run(
            [str(self.python), *arguments],
            cwd=self.folder,
            env=clean | variables,
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, f"{arguments}\n{process.stdout}\n{process.stderr}"
        return process.stdout


def _build(source: Path, folder: Path) -> Wheel:
    output = folder / source.name
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(output)]
    process = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert process.returncode == 0, f"{source}\n{process.stdout}\n{process.stderr}"
    (wheel,) = output.glob("*.whl")
    return Wheel(wheel, source)


@pytest.fixture(scope="session")
def core_wheel(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    return _build(ROOT, tmp_path_factory.mktemp("core-wheel"))


@pytest.fixture(scope="session")
def backend_wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Wheel]:
    """The wheel of every distribution under `backends/`, by name of its folder."""
    folder = tmp_path_factory.mktemp("backend-wheels")
    sources = sorted(path.parent for path in ROOT.glob("backends/*/pyproject.toml"))
    return {source.name: _build(source, folder) for source in sources}


@pytest.fixture(scope="session")
def environment(
    tmp_path_factory: pytest.TempPathFactory, core_wheel: Wheel, backend_wheels: dict[str, Wheel]
) -> Environment:
    """The core, all backends and two broken plugins, without torch."""
    made = Environment(tmp_path_factory.mktemp("environment"))
    ours = {wheel.name for wheel in (core_wheel, *backend_wheels.values())}
    needed = {
        str(requirement)
        for wheel in backend_wheels.values()
        for requirement in wheel.requirements
        if requirement.name not in ours | {"torch"}
    }
    made.install(core_wheel.path, *sorted(needed))
    broken_folder = tmp_path_factory.mktemp("broken-wheels")
    broken = [_build(path.parent, broken_folder) for path in BROKEN.glob("*/pyproject.toml")]
    made.install("--no-deps", *(wheel.path for wheel in (*backend_wheels.values(), *broken)))
    return made
