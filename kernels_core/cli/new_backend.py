"""`kernels-core new-backend`: generates a backend plugin that installs and passes its tests."""

from __future__ import annotations

import tempfile
from importlib import metadata, resources
from pathlib import Path
from string import Template

from kernels_core.device import Device, is_known_type
from kernels_core.errors import KernelsError
from kernels_core.hookspecs import API_VERSION

# Each file in `template` and what it becomes.
_FILES = {
    "README.md.txt": "README.md",
    "pyproject.toml.txt": "pyproject.toml",
    "init.py.txt": "$package/__init__.py",
    "probe.py.txt": "$package/_probe.py",
    "facts.py.txt": "$package/facts.py",
    "plugin.py.txt": "$package/plugin.py",
    "py.typed.txt": "$package/py.typed",
    "hosts.json.txt": "tests/hosts.json",
    "test_conformance.py.txt": "tests/test_conformance.py",
}

# Otherwise, lines of the generated files would be too long.
_LONGEST_NAME = 30


class NewBackendError(KernelsError, ValueError):
    """The project of a plugin cannot be generated as requested."""


def write_project(name: str, directory: Path) -> Path:
    """Generate the project of a backend plugin as `kernels-backend-<name>`, or nothing at all.

    Raises `NewBackendError` if the name cannot be used or the project exists already.
    """
    _check_name(name)
    values = {
        "name": name,
        "package": f"kernels_backend_{name}",
        "distribution": f"kernels-backend-{name.replace('_', '-')}",
        "class_prefix": "".join(part.capitalize() for part in name.split("_")),
        "core_version": metadata.version("kernels-core"),
        "api_version": str(API_VERSION),
    }
    project = directory / values["distribution"]
    if project.exists():
        raise NewBackendError(f"{project} exists already: remove it, or choose another directory.")
    with tempfile.TemporaryDirectory(prefix=f".{project.name}-", dir=directory) as beside:
        unfinished = Path(beside, "project")
        _fill(unfinished, values)
        unfinished.rename(project)
    return project


def _check_name(name: str) -> None:
    try:
        Device(name)
    except ValueError:
        problem = "it must be a lower-case identifier such as 'toaster'"
    else:
        problem = _problem(name)
    if problem:
        raise NewBackendError(f"{name!r} cannot be the name of a backend: {problem}.")


def _problem(name: str) -> str:
    if is_known_type(name) or name == "universal":
        return "kernels-core uses it already"
    if not name.isascii() or not name.replace("_", "").isalnum() or name.strip("_") != name:
        return "letters must be ASCII, and underscores must be between other characters"
    if len(name) > _LONGEST_NAME:
        return f"it has {len(name)} characters, and at most {_LONGEST_NAME} are allowed"
    return ""


def _fill(project: Path, values: dict[str, str]) -> None:
    templates = resources.files("kernels_core.cli") / "template"
    for source, target in _FILES.items():
        text = Template((templates / source).read_text("utf-8")).substitute(values)
        path = project / Template(target).substitute(values)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
