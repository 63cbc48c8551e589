"""Kernel repositories to check, written to disk file by file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

MakeBuild = Callable[..., Path]


@pytest.fixture
def make_build(tmp_path: Path) -> MakeBuild:
    """Write a build of the repository `activation`; call it again for more builds of it.

    The files are given by their path inside the variant's directory. Returns the repository.
    """
    repository = tmp_path / "activation"

    def make(
        variant: str,
        files: Mapping[str, str | bytes],
        metadata: Mapping[str, Any] | None = None,
    ) -> Path:
        directory = repository / "build" / variant
        directory.mkdir(parents=True)
        contents = dict(files)
        if metadata is not None:
            contents["metadata.json"] = json.dumps(metadata)
        for name, content in contents.items():
            file = directory / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        return repository

    return make


@pytest.fixture
def findings() -> Callable[..., list[tuple[str, str]]]:
    """Check something, and return the rule and the path of each finding."""
    from kernels_core.check import check

    def find(subject: object, **options: Any) -> list[tuple[str, str]]:
        report = check(subject, **options)  # type: ignore[arg-type]
        return [(each.rule.id, each.problem.path) for each in report.findings]

    return find
