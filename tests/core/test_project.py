"""`[tool.kernels.dependencies]` of a project: what it requires, and which lock satisfies it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kernels_core.errors import ProjectError
from kernels_core.locks.lock import LockedKernel
from kernels_core.locks.project import Requirement, parse_requirement, read_project
from kernels_core.repository.metadata import KernelDependency


def project(tmp_path: Path, table: str) -> Path:
    content = f"[project]\nname = 'acme'\n\n[tool.kernels.dependencies]\n{table}\n"
    (tmp_path / "pyproject.toml").write_text(content, encoding="utf-8")
    return tmp_path


def test_an_int_a_specifier_and_tables_are_read(tmp_path: Path) -> None:
    folder = project(
        tmp_path,
        """
        "org/tables" = { revision = "main" }
        "org/specifier" = ">=0.0.3,<0.1"
        "org/major" = 1
        "org/table-of-major" = { version = 2 }
        "org/table-of-specifier" = { version = "==0.2.*" }
        """,
    )
    requirements = (
        Requirement("org/major", 1),
        Requirement("org/specifier", ">=0.0.3,<0.1"),
        Requirement("org/table-of-major", 2),
        Requirement("org/table-of-specifier", "==0.2.*"),
        Requirement("org/tables", revision="main"),
    )
    assert read_project(folder) == requirements
    assert read_project(folder / "pyproject.toml") == requirements


@pytest.mark.parametrize("table", ["", "[tool.kernels.dependencies] # none yet\n"])
def test_a_project_without_entries_requires_nothing(tmp_path: Path, table: str) -> None:
    (tmp_path / "pyproject.toml").write_text(f"[project]\nname = 'acme'\n{table}")
    assert read_project(tmp_path) == ()


@pytest.mark.parametrize(
    ("text", "requirement", "shown"),
    [
        ("org/name", Requirement("org/name"), "org/name (main)"),
        ("org/name@2", Requirement("org/name", 2), "org/name (version 2)"),
        ("org/name@>=0.1", Requirement("org/name", ">=0.1"), "org/name (version >=0.1)"),
        ("org/name@main", Requirement("org/name", revision="main"), "org/name (main)"),
    ],
)
def test_a_requirement_is_read_from_text_and_shown(
    text: str, requirement: Requirement, shown: str
) -> None:
    assert parse_requirement(text) == requirement
    assert str(requirement) == shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("org/name@", "nothing follows the @"),
        ("org/name@  ", "nothing follows the @"),
        ("@>=0.1", "org/name@1"),
        ("@1", "org/name@1"),
        ("org/name@>=x", "'>=x' is not a PEP 440 specifier"),
        ("org/name@=1", "'=1' is not a PEP 440 specifier"),
    ],
)
def test_a_malformed_requirement_says_the_form(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        parse_requirement(text)


def test_a_major_version_in_quotes_says_to_leave_them_out(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.kernels.dependencies]\n"org/x" = "1"\n')
    with pytest.raises(ProjectError, match="for the major version 1 write the number, without"):
        read_project(tmp_path)


@pytest.mark.parametrize("text", ["name@1", "../name", "", "org/name/x@main"])
def test_text_without_a_repository_is_an_error_that_shows_it(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse_requirement(text)


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ('"org/name" = true', '"org/name"'),
        ('"org/name" = -1', '"org/name"'),
        ('"org/name" = 1.5', '"org/name"'),
        ('"org/name" = "0.0.3"', '"org/name"'),
        ('"org/name" = ["1"]', '"org/name"'),
        ('"org/name" = {}', '"org/name"'),
        ('"org/name" = { version = 1, revision = "main" }', '"org/name"'),
        ('"org/name" = { version = 1, trust = true }', '"org/name"'),
        ('"org/name" = { version = "main" }', '"org/name".version'),
        ('"org/name" = { revision = "" }', '"org/name".revision'),
        ('"name" = 1', '"name"'),
        ('"../name" = 1', '"../name"'),
        ("org.name = 1", '"org"'),
    ],
)
def test_a_malformed_entry_is_an_error_that_names_file_and_key(
    tmp_path: Path, table: str, key: str
) -> None:
    with pytest.raises(ProjectError) as caught:
        read_project(project(tmp_path, table))
    assert caught.value.key == f"tool.kernels.dependencies.{key}".replace('"', "")
    assert str(caught.value).startswith(f"{tmp_path / 'pyproject.toml'}: ")


@pytest.mark.parametrize("content", [b"[", b"\xff", b"[tool]\nkernels = 1", b"tool = 1"])
def test_a_malformed_file_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pyproject.toml").write_bytes(content)
    with pytest.raises(ProjectError, match=re.escape(str(tmp_path / "pyproject.toml"))):
        read_project(tmp_path)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=re.escape(str(tmp_path / "pyproject.toml"))):
        read_project(tmp_path)


@pytest.mark.parametrize(
    ("requirement", "version", "revision", "accepted"),
    [
        (Requirement("org/name", 1), 1, None, True),
        (Requirement("org/name", 1), 2, None, False),
        (Requirement("org/name", 1), None, "v1", False),
        (Requirement("org/other", 1), 1, None, False),
        (Requirement("org/name", revision="main"), None, "main", True),
        (Requirement("org/name", revision="main"), None, "v1", False),
        (Requirement("org/name", ">=0.0.3,<0.1"), None, "v0.0.10", True),
        (Requirement("org/name", ">=0.0.3,<0.1"), None, "v0.1.0", False),
        (Requirement("org/name", ">=0.0.3,<0.1"), None, "main", False),
        (Requirement("org/name", ">=0.0.3,<0.1"), 1, None, False),
        (Requirement("org/name", ">=0.1"), None, "v0.2.0rc1", True),
    ],
    ids=str,
)
def test_a_locked_kernel_satisfies_a_requirement_or_not(
    requirement: Requirement, version: int | None, revision: str | None, accepted: bool
) -> None:
    kernel = LockedKernel(KernelDependency("org/name", version, revision), "a" * 40)
    assert requirement.accepts(kernel) is accepted
