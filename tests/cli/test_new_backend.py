"""`kernels-core new-backend`. tests/installed installs the project and runs its tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kernels_core.cli import new_backend

NAMES = ["toaster", "x", "acme_two", "n" * 30]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "projects"
    folder.mkdir()
    return folder


def files(project: Path) -> list[str]:
    paths = (path.relative_to(project) for path in project.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in paths)


def test_it_writes_a_whole_project(command_line, directory):
    process = command_line.run("new-backend", "acme_two", "--directory", str(directory))
    assert process.returncode == 0
    (project,) = directory.iterdir()
    assert project.name == "kernels-backend-acme-two"
    assert str(project) in process.stdout
    assert files(project) == [
        "README.md",
        "kernels_backend_acme_two/__init__.py",
        "kernels_backend_acme_two/_probe.py",
        "kernels_backend_acme_two/facts.py",
        "kernels_backend_acme_two/plugin.py",
        "kernels_backend_acme_two/py.typed",
        "pyproject.toml",
        "tests/hosts.json",
        "tests/test_conformance.py",
    ]
    for file in files(project):
        assert "$" not in (project / file).read_text("utf-8")
    assert "class AcmeTwoFacts" in (project / "kernels_backend_acme_two" / "facts.py").read_text()


def test_no_template_is_left_over():
    template = Path(new_backend.__file__).with_name("template")
    assert files(template) == sorted(new_backend._FILES)


def assert_clean(project: Path, tool: str, *options: str) -> None:
    pytest.importorskip(tool, reason=f"needs {tool}: pip install {tool}")
    command = [sys.executable, "-m", tool, *options, "."]
    run = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("name", NAMES)
def test_ruff_finds_nothing_whatever_the_name(directory, name):
    project = new_backend.write_project(name, directory)
    assert_clean(project, "ruff", "check")
    assert_clean(project, "ruff", "format", "--check")


def test_mypy_finds_nothing(directory):
    assert_clean(new_backend.write_project("toaster", directory), "mypy")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "lower-case identifier"),
        ("Acme", "lower-case identifier"),
        ("ac-me", "lower-case identifier"),
        ("1acme", "lower-case identifier"),
        ("../acme", "lower-case identifier"),
        ("acme:0", "lower-case identifier"),
        ("acmé", "ASCII"),
        ("_acme", "underscore"),
        ("acme_", "underscore"),
        ("_", "underscore"),
        ("cuda", "kernels-core uses it already"),
        ("cpu", "kernels-core uses it already"),
        ("universal", "kernels-core uses it already"),
        ("n" * 31, "at most 30"),
    ],
)
def test_a_name_that_cannot_be_used(command_line, directory, name, says):
    process = command_line.run("new-backend", "--directory", str(directory), "--", name)
    assert process.returncode == 2
    assert says in process.stderr
    assert list(directory.iterdir()) == []


def test_a_directory_that_is_there_is_left_alone(command_line, directory):
    project = directory / "kernels-backend-acme"
    project.mkdir()
    process = command_line.run("new-backend", "acme", "--directory", str(directory))
    assert process.returncode == 2
    assert f"{project} exists already" in process.stderr
    assert list(project.iterdir()) == []


def test_a_directory_that_is_not_there(command_line, directory):
    process = command_line.run("new-backend", "acme", "--directory", str(directory / "none"))
    assert process.returncode == 2
    assert "does not exist" in process.stderr


def test_nothing_half_written_stays(directory, monkeypatch):
    monkeypatch.setitem(new_backend._FILES, "no such template", "tests/zzz.py")
    with pytest.raises(FileNotFoundError):
        new_backend.write_project("acme", directory)
    assert list(directory.iterdir()) == []
