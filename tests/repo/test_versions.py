"""Our distributions are released together, under one version."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def projects(repository: Path) -> dict[str, dict[str, Any]]:
    files = [repository / "pyproject.toml", *sorted(repository.glob("backends/*/pyproject.toml"))]
    tables = [tomllib.loads(file.read_text("utf-8"))["project"] for file in files]
    return {canonicalize_name(table["name"]): table for table in tables}


def test_every_distribution_has_the_same_version(repository: Path) -> None:
    versions = {name: table["version"] for name, table in projects(repository).items()}
    assert "kernels-core" in versions
    assert len(versions) > 1
    assert len(set(versions.values())) == 1, versions


def test_requirements_among_our_distributions_accept_this_version(repository: Path) -> None:
    ours = projects(repository)
    for name, table in ours.items():
        for requirement in map(Requirement, table["dependencies"]):
            other = ours.get(canonicalize_name(requirement.name))
            if other is not None:
                assert requirement.specifier.contains(other["version"]), (name, str(requirement))


def test_every_backend_requires_the_core(repository: Path) -> None:
    for name, table in projects(repository).items():
        if name.startswith("kernels-backend-"):
            required = {Requirement(text).name for text in table["dependencies"]}
            assert "kernels-core" in required, name
