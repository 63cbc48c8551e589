"""Whatever a repository contains, its check ends with a report that every format can show."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernels_core.check import check
from kernels_core.cli.check_formats import as_github, as_json, as_sarif
from kernels_core.cli.check_text import as_text
from kernels_core.errors import CheckError

FAMILIES = ["layout", "completeness", "metadata"]

VALID = json.dumps(
    {
        "name": "activation",
        "id": "activation_1",
        "version": 1,
        "python-depends": ["einops>=0.7"],
        "kernel-depends": [{"repo-id": "org/base", "version": 1}],
        "backend": {"type": "cpu", "archs": ["avx2"]},
        "provenance": {"kernel": {"dirty": False}},
        "digest": {"algorithm": "sha256", "files": {}},
    }
).encode()

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside),
)
KEYS = ("name", "id", "version", "python-depends", "kernel-depends", "backend", "provenance")

# What a file system takes for a name: any bytes but two.
NAMES = st.binary(min_size=1, max_size=40).map(
    lambda raw: os.fsdecode(raw.replace(b"\0", b"0").replace(b"/", b"_"))
)


def look_at(files: dict[str, bytes], variant: str = "torch-cpu") -> None:
    """Check a repository with these files, and show what is found in every format."""
    with tempfile.TemporaryDirectory() as folder:
        build = Path(folder) / "build" / variant
        build.mkdir(parents=True)
        for name, content in files.items():
            (build / name).write_bytes(content)
        report = check(folder, select=FAMILIES)
    shown = as_text(report), as_github(report), json.dumps(as_json(report))
    for text in (*shown, json.dumps(as_sarif(report))):
        text.encode()
    assert all(line.isprintable() for line in shown[0].splitlines())


@given(st.binary())
@example(b"\xff\xfe{}")
@example(b"[" * 200_000)
@example(b'{"a":' * 200_000)
@example(b'{"version": ' + b"9" * 10_000 + b"}")
@example(b'{"digest": {"algorithm": "sha256", "files": {"\\ud800": "AA=="}}}')
def test_any_bytes_as_metadata(content: bytes) -> None:
    look_at({"__init__.py": b"", "metadata.json": content})


@given(st.integers(0, len(VALID) - 1), st.integers(0, 7), st.booleans())
def test_metadata_that_was_damaged(place: int, bit: int, cut: bool) -> None:
    damaged = bytearray(VALID)
    damaged[place] ^= 1 << bit
    look_at({"__init__.py": b"", "metadata.json": bytes(damaged[:place] if cut else damaged)})


@given(st.dictionaries(st.sampled_from([*KEYS, "digest"]), JSON, min_size=1))
def test_any_values_in_metadata(values: dict[str, Any]) -> None:
    content = json.dumps(values).encode()
    look_at({"__init__.py": b"", "metadata.json": content})


@settings(deadline=None)
@given(st.dictionaries(NAMES.filter(lambda name: name not in (".", "..")), st.just(b"")))
def test_any_names_of_files(files: dict[str, bytes]) -> None:
    look_at(files)


@settings(deadline=None)
@given(
    NAMES.filter(lambda name: name not in (".", ".."))
    | st.from_regex(r"torch(-stable-abi)?[0-9]{1,6}-[a-z0-9.+_]+-[a-z0-9_]+-[a-z]+", fullmatch=True)
)
def test_any_names_of_builds(name: str) -> None:
    look_at({"__init__.py": b""}, name[:200])


def test_directories_nested_as_deep_as_they_go() -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "build" / "torch-cpu").mkdir(parents=True)
        before = os.open(".", os.O_RDONLY)
        try:
            os.chdir(Path(folder) / "build" / "torch-cpu")
            for _ in range(60):
                os.mkdir("d" * 100)
                os.chdir("d" * 100)
        finally:
            os.fchdir(before)
            os.close(before)
        # Longer than what the system opens: not checked, and not a crash.
        with pytest.raises(CheckError, match="cannot be read"):
            check(folder, select=FAMILIES)


def test_far_too_many_files_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("kernels_core.check.facts.repository._MAX_ENTRIES", 10)
    build = tmp_path / "build" / "torch-cpu"
    build.mkdir(parents=True)
    for number in range(11):
        (build / f"{number}.py").touch()
    with pytest.raises(CheckError, match="more than 10 files"):
        check(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_what_cannot_be_read_is_not_clean(tmp_path: Path) -> None:
    build = tmp_path / "build" / "torch-cpu"
    build.mkdir(parents=True)
    build.chmod(0)
    try:
        with pytest.raises(CheckError, match="cannot be read"):
            check(tmp_path)
    finally:
        build.chmod(0o755)
