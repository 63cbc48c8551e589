"""Our packages as a user has them: built as wheels and installed into an empty environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Iterable
from email import message_from_bytes
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


class Wheel:
    """A built wheel, the source distribution that it was built from, and the folder of both."""

    def __init__(self, path: Path, sdist: Path, source: Path):
        self.path = path
        self.sdist = sdist
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
    """A virtual environment, outside the checkout."""

    def __init__(self, folder: Path):
        self.folder = folder
        venv.create(folder, with_pip=True)
        bin_folder = "Scripts" if os.name == "nt" else "bin"
        self.python = folder / bin_folder / Path(sys.executable).name

    def install(self, *arguments: str | Path) -> None:
        self._run("-m", "pip", "install", "--quiet", *map(str, arguments))

    def uninstall(self, *names: str) -> None:
        self._run("-m", "pip", "uninstall", "--quiet", "--yes", *names)

    def borrow(self, *names: str) -> None:
        """Link distributions and what they require, from the environment that runs the tests.

        For torch, which would take 200 MB and a minute to install. pip finds what is linked like
        this installed, and nothing else of that environment can be seen.
        """
        site_packages = Path(self.run("import sysconfig; tell(sysconfig.get_path('purelib'))"))
        # Outside the environment, where pip replaces nothing: it would write through the links.
        borrowed = self.folder.with_name(f"{self.folder.name}-borrowed")
        borrowed.mkdir(exist_ok=True)
        (site_packages / "borrowed.pth").write_text(str(borrowed))
        for distribution in _with_requirements(names):
            for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
                link = borrowed / top
                if not link.exists():
                    link.symlink_to(str(distribution.locate_file(top)))

    def run(self, code: str, **variables: str) -> Any:
        """Run a program that calls `tell(value)`, and return that value."""
        program = "import json\ndef tell(value): print(json.dumps(value))\n" + code
        return json.loads(self._run("-c", program, **variables))

    def command(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run `kernels-core`, which may fail."""
        script = self.python.with_name("kernels-core").with_suffix(self.python.suffix)
        return self._start(str(script), *arguments, **variables)

    def _run(self, *arguments: str, **variables: str) -> str:
        process = self._start(str(self.python), *arguments, **variables)
        assert process.returncode == 0, f"{arguments}\n{process.stdout}\n{process.stderr}"
        return process.stdout

    def _start(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("KERNELS_", "PYTHON"))}
        return subprocess.run(
            command, cwd=self.folder, env=clean | variables, capture_output=True, text=True
        )


def _with_requirements(texts: Iterable[str]) -> list[metadata.Distribution]:
    found: dict[Requirement, metadata.Distribution] = {}
    pending = list(map(Requirement, texts))
    while pending:
        requirement = pending.pop()
        if requirement not in found:
            found[requirement] = metadata.distribution(requirement.name)
            extras = [{"extra": extra} for extra in ("", *requirement.extras)]
            for needed in map(Requirement, found[requirement].requires or ()):
                if needed.marker is None or any(map(needed.marker.evaluate, extras)):
                    pending.append(needed)
    return list(found.values())


def _build(source: Path, folder: Path) -> Wheel:
    output = folder / source.name
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output)]
    process = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert process.returncode == 0, f"{source}\n{process.stdout}\n{process.stderr}"
    (wheel,), (sdist,) = output.glob("*.whl"), output.glob("*.tar.gz")
    return Wheel(wheel, sdist, source)


@pytest.fixture(scope="session")
def build_wheel(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Wheel]:
    """Build the wheel of the distribution in a folder."""
    return lambda source: _build(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def make_environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Environment]:
    """Make an environment with nothing in it but pip."""
    return lambda: Environment(tmp_path_factory.mktemp("environment"))


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
    """The core and all backends, without torch."""
    made = Environment(tmp_path_factory.mktemp("environment"))
    ours = {wheel.name for wheel in (core_wheel, *backend_wheels.values())}
    needed = {
        str(requirement)
        for wheel in backend_wheels.values()
        for requirement in wheel.requirements
        if requirement.name not in ours | {"torch"}
    }
    made.install(core_wheel.path, *sorted(needed))
    made.install("--no-deps", *(wheel.path for wheel in backend_wheels.values()))
    return made
