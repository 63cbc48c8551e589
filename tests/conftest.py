"""Fixtures for tests of every folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Files = Mapping[str, object]
MakeRepository = Callable[..., Path]

# Distributions of their own, whose tests need them installed: see tests/installed/test_acme.py.
collect_ignore = ["plugins"]


@pytest.fixture
def make_repository(tmp_path: Path) -> MakeRepository:
    """Write a kernel repository and return its path.

    Takes `{variant: {file: content}}` and the repository's directory name. Content is text, bytes,
    or anything else as JSON; `{"torch-cpu": {"__init__.py": "x = 1"}}` is a whole repository.
    """

    def make(builds: Mapping[str, Files], *, name: str = "activation") -> Path:
        repository = tmp_path / name
        (repository / "build").mkdir(parents=True, exist_ok=True)
        for variant, files in builds.items():
            (repository / "build" / variant).mkdir(exist_ok=True)
            for file, content in files.items():
                path = repository / "build" / variant / file
                path.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, bytes):
                    path.write_bytes(content)
                else:
                    text = content if isinstance(content, str) else json.dumps(content)
                    path.write_text(text, encoding="utf-8")
        return repository

    return make
