"""Rules about the metadata of builds, and the digest of their files."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from kernels_core.check import check
from kernels_core.check.report import Finding

METADATA: dict[str, Any] = {"name": "activation", "id": "activation_1", "version": 1}
FILES = {"__init__.py": "from . import layers", "layers.py": "import torch"}
PATH = "build/torch-cpu/metadata.json"

Make = Callable[..., Path]


def found(path: Path) -> list[tuple[str, str, str | None]]:
    """The rule, path and key of what is found."""
    report = check(path, select=["metadata"])
    return [(each.rule.id, each.problem.path, each.problem.symbol) for each in report.findings]


def only(path: Path) -> Finding:
    (finding,) = check(path, select=["metadata"]).findings
    return finding


def digest(files: Mapping[str, str | bytes], algorithm: str = "sha256") -> dict[str, Any]:
    """The digest of files, as a build tool writes it."""
    hashes = {}
    for path in sorted(files, key=str.encode):
        content = files[path]
        raw = content.encode() if isinstance(content, str) else content
        hashes[path] = base64.b64encode(hashlib.new(algorithm, raw).digest()).decode()
    return {"algorithm": algorithm, "files": hashes}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"license": "Apache-2.0", "upstream": ["https://example.org/x"], "source": None},
        {"python-depends": ["einops>=0.7", "triton"], "unknown": {"of": "no matter"}},
        {"backend": {"type": "cpu", "archs": ["avx2"]}, "kernels-minver": "0.12.0"},
        {"kernel-depends": [{"repo-id": "org/activation", "version": 2}]},
        {"provenance": {"kernel": {"commit": "0" * 40, "dirty": False}, "dirty": False}},
        {"digest": digest(FILES)},
        {"digest": digest(FILES, "sha512")},
    ],
)
def test_metadata_as_it_should_be(make_build: Make, more: dict[str, Any]) -> None:
    assert found(make_build("torch-cpu", FILES, METADATA | more)) == []


def test_a_build_without_metadata(make_build: Make) -> None:
    assert found(make_build("torch-cpu", FILES)) == [("metadata-file", "build/torch-cpu", None)]


def test_a_directory_without_a_package_lacks_more_than_metadata(make_build: Make) -> None:
    assert found(make_build("torch-cpu", {"notes.txt": ""})) == []


@pytest.mark.parametrize(
    ("content", "key", "message"),
    [
        ("", None, "is not JSON"),
        ("[]", None, "must contain a JSON object"),
        ("\ufeff{}", None, "without a BOM"),
        ("{} {}", None, "is not JSON"),
        ('{"name": "a-b", "name": "a-c"}', "name", "occurs twice"),
        ('{"name": "Activation"}', "name", "must be at least two lower-case letters"),
        ('{"id": "not-an-identifier"}', "id", "must be a Python identifier"),
        ('{"version": "1"}', "version", "must be an integer"),
        ('{"backend": {}}', "backend.type", "is missing"),
        ('{"digest": {"algorithm": "md5", "files": {}}}', "digest.algorithm", "must be 'sha256'"),
        (
            json.dumps({"digest": {"algorithm": "sha256", "files": {"../a.py": ""}}}),
            "digest.files.../a.py",
            "must be the path of a file inside the variant",
        ),
        (
            json.dumps({"digest": {"algorithm": "sha256", "files": {"a\\b.py": ""}}}),
            "digest.files.a\\b.py",
            "must be the path of a file inside the variant",
        ),
        ("[" * 100_000, None, "is nested too deeply"),
    ],
)
def test_metadata_that_breaks_the_schema(
    make_build: Make, content: str, key: str | None, message: str
) -> None:
    finding = only(make_build("torch-cpu", FILES | {"metadata.json": content}))
    assert (finding.rule.id, finding.problem.path) == ("metadata-schema", PATH)
    assert finding.problem.symbol == key
    assert message in finding.problem.message
    assert not finding.problem.message.startswith("/")


@pytest.mark.parametrize("key", ["name", "id", "version"])
def test_a_key_that_is_missing(make_build: Make, key: str) -> None:
    metadata = {name: value for name, value in METADATA.items() if name != key}
    repository = make_build("torch-cpu", FILES, metadata)
    assert found(repository) == [("metadata-keys", PATH, key)]


def test_builds_that_do_not_agree(make_build: Make) -> None:
    for backend in ("cpu", "cuda", "rocm"):
        repository = make_build(f"torch-{backend}", FILES, METADATA)
    assert found(repository) == []
    make_build("torch-xpu", FILES, METADATA | {"version": 2, "id": "activation_2"})
    make_build("torch-npu", FILES, METADATA | {"name": "old-activation"})
    assert found(repository) == [
        ("metadata-agreement", "build/torch-npu/metadata.json", "name"),
        ("metadata-agreement", "build/torch-xpu/metadata.json", "version"),
    ]
    report = check(repository, select=["metadata-agreement"])
    assert report.findings[1].problem.message == "the version is 2, but 1 in 4 of 5 builds"
    assert report.findings[1].variant == "torch-xpu"


@pytest.mark.parametrize(
    ("variant", "backend"),
    [
        ("torch-cuda", "cuda"),
        ("torch-npu", "cann"),
        ("torch-universal", "cuda"),
        ("torch213-cxx11-acme3-x86_64-linux", "anything"),
        ("torch213-metal-aarch64-darwin", "metal"),
        ("torch-stable-abi210-rocm72-x86_64-linux", "rocm"),
    ],
)
def test_a_backend_that_belongs_to_the_variant(
    make_build: Make, variant: str, backend: str
) -> None:
    assert found(make_build(variant, FILES, METADATA | {"backend": {"type": backend}})) == []


@pytest.mark.parametrize(
    ("variant", "backend"),
    [
        ("torch-cuda", "rocm"),
        ("torch213-metal-aarch64-darwin", "mps"),
        ("torch213-cxx11-cu130-x86_64-linux", "cpu"),
    ],
)
def test_a_backend_that_is_not_that_of_the_variant(
    make_build: Make, variant: str, backend: str
) -> None:
    repository = make_build(variant, FILES, METADATA | {"backend": {"type": backend}})
    path = f"build/{variant}/metadata.json"
    assert found(repository) == [("metadata-backend", path, "backend.type")]


def test_what_is_needed_twice(make_build: Make) -> None:
    needs = [{"repo-id": "org/base", "version": 1}, {"repo-id": "org/base", "revision": "main"}]
    metadata = METADATA | {"python-depends": ["Einops>=0.7", "einops"], "kernel-depends": needs}
    assert found(make_build("torch-cpu", FILES, metadata)) == [
        ("metadata-dependencies", PATH, "python-depends"),
        ("metadata-dependencies", PATH, "kernel-depends"),
    ]


def test_sources_with_uncommitted_changes(make_build: Make) -> None:
    provenance = {
        "kernel": {"commit": "0" * 40, "dirty": True},
        "kernel-builder": {"version": "0.17.2", "git": {"commit": "1" * 40, "dirty": True}},
        "sources": [{"dirty": False}, {"dirty": True}],
    }
    repository = make_build("torch-cpu", FILES, METADATA | {"provenance": provenance})
    assert found(repository) == [
        ("metadata-provenance", PATH, "provenance.kernel.dirty"),
        ("metadata-provenance", PATH, "provenance.kernel-builder.git.dirty"),
        ("metadata-provenance", PATH, "provenance.sources[1].dirty"),
    ]


# The digest


def test_each_file_that_is_not_as_the_digest_says_is_found(make_build: Make) -> None:
    files = FILES | {"more.py": ""}
    listed = digest(FILES | {"gone.py": "", "layers.py": "import os"})
    repository = make_build("torch-cpu", files, METADATA | {"digest": listed})
    report = check(repository, select=["metadata"])
    assert {finding.rule.id for finding in report.findings} == {"metadata-digest"}
    messages = {each.problem.path: each.problem.message for each in report.findings}
    assert sorted(messages) == [f"build/torch-cpu/{n}.py" for n in ("gone", "layers", "more")]
    assert messages["build/torch-cpu/gone.py"].endswith("got no such file")
    assert messages["build/torch-cpu/more.py"].endswith("got a file that is not listed")
    assert "expected sha256 " in messages["build/torch-cpu/layers.py"]


def test_what_a_digest_leaves_out(make_build: Make) -> None:
    files = FILES | {"metadata.json.sigstore": "{}", "__pycache__/layers.cpython-311.pyc": b""}
    repository = make_build("torch-cpu", files, METADATA | {"digest": digest(FILES)})
    assert found(repository) == []


def test_holes_that_a_digest_may_have_are_found_once(make_build: Make, tmp_path: Path) -> None:
    files = FILES | {"instead.pyc": b"bytecode", "layers.pyc": b"bytecode"}
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "code.py").write_text("")
    listed = digest(FILES | {"layers.pyc": b"bytecode"})
    repository = make_build("torch-cpu", files, METADATA | {"digest": listed})
    (repository / "build" / "torch-cpu" / "ops").symlink_to(tmp_path / "outside")
    report = check(repository, select=["metadata", "layout"])
    assert [(each.rule.id, each.problem.path) for each in report.findings] == [
        ("layout-bytecode", "build/torch-cpu/instead.pyc"),
        ("layout-bytecode", "build/torch-cpu/layers.pyc"),
        ("layout-regular-files", "build/torch-cpu/ops"),
    ]


def test_a_repository_below_a_directory_for_bytecode_is_verified_like_any_other(
    tmp_path: Path,
) -> None:
    build = tmp_path / "__pycache__" / "activation" / "build" / "torch-cpu"
    build.mkdir(parents=True)
    for name, content in FILES.items():
        (build / name).write_text(content)
    listed = digest(FILES | {"layers.py": "something else"})
    (build / "metadata.json").write_text(json.dumps(METADATA | {"digest": listed}))
    assert found(build) == [("metadata-digest", "build/torch-cpu/layers.py", None)]


def test_a_digest_in_another_order(make_build: Make) -> None:
    # Upper case comes before lower case, and "-" before "/".
    files = {"B.py": "", "__init__.py": "", "a-b.py": "", "a/b.py": ""}
    right = digest(files)
    repository = make_build("torch-cpu", files, METADATA | {"digest": right})
    assert found(repository) == []
    wrong = right | {"files": dict(reversed(right["files"].items()))}
    make_build("torch-cuda", files, METADATA | {"digest": wrong})
    finding = only(repository)
    assert finding.rule.id == "metadata-digest-order"
    assert finding.problem.message == "'a-b.py' comes after 'a/b.py'"


def test_metadata_that_is_a_link_is_a_link_and_nothing_else(make_build: Make) -> None:
    repository = make_build("torch-cpu", FILES | {"about.json": json.dumps(METADATA)})
    (repository / PATH).symlink_to("about.json")
    assert found(repository) == []


def test_metadata_that_is_too_large_to_read(make_build: Make) -> None:
    content = b'{"name": "' + b"a" * 9_000_000 + b'"}'
    finding = only(make_build("torch-cpu", FILES | {"metadata.json": content}))
    assert finding.rule.id == "metadata-schema"
    assert "is larger than" in finding.problem.message
