"""Rules about files and directories: for each, what satisfies it and what breaks it."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kernels_core.check import check
from kernels_core.errors import CheckError

NATIVE = "torch213-cxx11-cu130-x86_64-linux"
METADATA = {"name": "activation", "id": "activation_1", "version": 1}

Make = Callable[..., Path]
Find = Callable[..., list[tuple[str, str]]]


@pytest.fixture
def found(findings: Find) -> Find:
    """What the rules of this family find."""
    return lambda path, **options: findings(path, select=["layout"], **options)


@pytest.mark.parametrize(
    "variant",
    [
        "torch-universal",
        "torch-cuda",
        "torch-npu",
        "torch-acme",  # a plugin's
        "torch26-cxx98-cu118-x86_64-linux",
        "torch210-cxx11-rocm71-x86_64-linux",
        "torch29-cxx11-cu1210-aarch64-linux",
        "torch213-cxx11-rocm710-x86_64-linux",
        "torch212-cxx11-xpu20253-x86_64-linux",
        "torch213-cxx11-xpu202510-x86_64-linux",
        "torch213-cxx11-acme12-x86_64-linux",
        "torch213-metal-aarch64-darwin",
        "torch29-cu128-x86_64-windows",
        "torch-stable-abi210-cu130-x86_64-linux",
        "tvm-ffi01-cu130-x86_64-linux",
    ],
)
def test_builds_of_all_kinds_are_right_in_both_layouts(
    make_build: Make, found: Find, variant: str
) -> None:
    newer = {"__init__.py": "", "layers.py": "", "ops/__init__.py": "", "include/a.h": ""}
    repository = make_build(variant, newer, METADATA)
    assert found(repository) == []
    older = {"activation/__init__.py": "", "activation/ops/a.py": "", "metadata.json.sigstore": ""}
    make_build("torch-cpu", older, METADATA)
    assert found(repository) == []


def test_both_generations_in_one_build_are_right(make_build: Make, found: Find) -> None:
    files = {"__init__.py": "", "activation/__init__.py": "from .. import *"}
    assert found(make_build(NATIVE, files, METADATA)) == []


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ("src", "'src' is not a variant name such as"),
        ("lib.linux-x86_64-cpython-311", "is not a variant name"),
        ("torch2.13-cxx11-cpu-x86_64-linux", "is not a variant name"),
        ("torch-CPU", "is not a variant name"),
        ("torch201-cpu-x86_64", "is not a variant name"),
        ("torch213-cxx11-cu130-x86_64-linux ", "is not a variant name"),
        ("torch-stable-abi213-cxx11-cpu-x86_64-linux", "must be written as"),
        ("torch2013-cpu-x86_64-linux\u0661", "is not a variant name"),
    ],
)
def test_a_name_that_no_loader_reads(make_build: Make, variant: str, reason: str) -> None:
    report = check(make_build(variant, {"__init__.py": ""}), select=["layout-variant-name"])
    (finding,) = report.findings
    assert finding.problem.path == f"build/{variant}"
    assert finding.variant == variant
    assert reason in finding.problem.message


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("torch213-cxx11-cu12.8-x86_64-linux", "'cu128' for 12.8"),
        ("torch213-cxx11-cu0128-x86_64-linux", "'cu128' for 12.8"),
        ("torch213-cxx11-cuda128-x86_64-linux", "'cu128' for 12.8"),
        ("torch213-cxx11-CU128-x86_64-linux", "'cu128' for 12.8"),
        ("torch213-cxx11-hip72-x86_64-linux", "'rocm72' for 7.2"),
        ("torch213-cxx11-xpu2026-x86_64-linux", "'xpu20260' for 2026.0"),
        ("torch213-mps-aarch64-darwin", "'metal', also"),
        ("torch-mps", "'metal'"),
        ("torch-cu128", "'cuda'"),
        ("torch-rocm72", "'rocm'"),
    ],
)
def test_a_backend_that_is_spelt_as_no_loader_spells_it(
    make_build: Make, variant: str, expected: str
) -> None:
    (finding,) = check(make_build(variant, {"__init__.py": ""}), select=["layout"]).findings
    assert (finding.rule.id, finding.problem.path) == ("layout-backend", f"build/{variant}")
    assert finding.problem.message.endswith(expected) or expected in finding.problem.message


@pytest.mark.parametrize(
    "variant",
    [
        "torch213-cu130-x86_64-linux",
        "torch213-cxx11-metal-aarch64-darwin",
        "torch213-cxx11-cu130-x86_64-windows",
    ],
)
def test_the_cxx_tag_is_for_linux(make_build: Make, found: Find, variant: str) -> None:
    repository = make_build(variant, {"__init__.py": ""})
    assert found(repository) == [("layout-cxx-tag", f"build/{variant}")]


def test_a_repository_without_builds(tmp_path: Path, found: Find) -> None:
    (tmp_path / "build").mkdir()
    assert found(tmp_path) == [("layout-builds", "build")]


def test_a_directory_without_build_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="not a kernel repository"):
        check(tmp_path)


def test_files_in_build_and_links_there(make_build: Make, found: Find) -> None:
    repository = make_build("torch-cpu", {"__init__.py": ""})
    (repository / "build" / "README.md").write_text("")
    (repository / "README.md").write_text("")  # beside build, anything may lie
    (repository / "build" / "torch-cuda").symlink_to("torch-cpu")
    assert found(repository) == [
        ("layout-stray-file", "build/README.md"),
        ("layout-variant-directory", "build/torch-cuda"),
    ]


@pytest.mark.parametrize(
    "files",
    [
        {"layers.py": ""},
        {"src/layers.py": ""},
        {"activation/src/__init__.py": ""},
        {"one/__init__.py": "", "other/__init__.py": ""},
    ],
)
def test_a_directory_that_is_not_one_package(
    make_build: Make, found: Find, files: dict[str, str]
) -> None:
    repository = make_build(NATIVE, files)
    assert ("layout-package", f"build/{NATIVE}") in found(repository)


def test_an_inner_package_with_another_name(make_build: Make, found: Find) -> None:
    repository = make_build(NATIVE, {"kernel/__init__.py": ""}, METADATA)
    assert found(repository) == [("layout-package-name", f"build/{NATIVE}/kernel")]
    # Nothing says what the repository is called, but its directory, which anyone may name.
    unnamed = make_build("torch-cpu", {"kernel/__init__.py": ""})
    assert found(unnamed / "build" / "torch-cpu") == []


def test_an_inner_package_with_a_dash(make_build: Make, found: Find) -> None:
    files = {"fused-norm/__init__.py": ""}
    repository = make_build("torch-cpu", files, METADATA | {"name": "fused-norm"})
    assert found(repository) == [("layout-package-name", "build/torch-cpu/fused-norm")]
    right = make_build(
        "torch-cuda", {"fused_norm/__init__.py": ""}, METADATA | {"name": "fused-norm"}
    )
    assert found(right / "build" / "torch-cuda") == []


def test_what_lies_beside_the_package_of_the_older_layout(make_build: Make, found: Find) -> None:
    files = {"activation/__init__.py": "", "notes.txt": "", "tests/test_a.py": "", "tests/b.py": ""}
    repository = make_build("torch-cpu", files, METADATA)
    assert found(repository) == [
        ("layout-beside-package", "build/torch-cpu/notes.txt"),
        ("layout-beside-package", "build/torch-cpu/tests"),
    ]


@pytest.mark.parametrize("target", ["layers.py", "../../outside.py", "/etc/hostname", "gone.py"])
def test_a_link_to_a_file_is_found_wherever_it_leads(
    make_build: Make, found: Find, target: str
) -> None:
    repository = make_build("torch-cpu", {"__init__.py": "", "layers.py": ""})
    (repository / "build" / "torch-cpu" / "link.py").symlink_to(target)
    assert found(repository) == [("layout-regular-files", "build/torch-cpu/link.py")]


def test_what_a_link_to_a_directory_leads_to_is_not_looked_at(
    make_build: Make, found: Find, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "code.pyc").write_bytes(b"")
    repository = make_build("torch-cpu", {"__init__.py": ""})
    (repository / "build" / "torch-cpu" / "ops").symlink_to(tmp_path / "outside")
    (repository / "build" / "torch-cpu" / "loop").symlink_to(".")
    assert found(repository) == [
        ("layout-regular-files", "build/torch-cpu/loop"),
        ("layout-regular-files", "build/torch-cpu/ops"),
    ]


def test_a_package_whose_init_is_a_link_has_one_thing_wrong(make_build: Make, found: Find) -> None:
    repository = make_build("torch-cpu", {"init.py": ""})
    (repository / "build" / "torch-cpu" / "__init__.py").symlink_to("init.py")
    assert found(repository) == [("layout-regular-files", "build/torch-cpu/__init__.py")]


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes are of POSIX systems")
def test_what_is_neither_file_nor_directory(make_build: Make, found: Find) -> None:
    repository = make_build("torch-cpu", {"__init__.py": ""})
    build = repository / "build" / "torch-cpu"
    os.mkfifo(build / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        # Paths of sockets must be short.
        before = Path.cwd()
        os.chdir(build)
        listener.bind("socket")
        os.chdir(before)
        assert found(repository) == [
            ("layout-regular-files", "build/torch-cpu/pipe"),
            ("layout-regular-files", "build/torch-cpu/socket"),
        ]


def test_files_of_the_hub_client_cache_are_files(tmp_path: Path, found: Find) -> None:
    cached = tmp_path / "kernels--org--activation"
    commit = "0" * 40
    build = cached / "snapshots" / commit / "build" / "torch-cpu"
    build.mkdir(parents=True)
    (cached / "blobs").mkdir()
    for name, content in (("__init__.py", "import os"), ("metadata.json", '{"name": "other"}')):
        (cached / "blobs" / name[:5]).write_text(content)
        (build / name).symlink_to(f"../../../../blobs/{name[:5]}")
    root = cached / "snapshots" / commit
    assert found(root) == []
    # Its name is known, too.
    assert [f.rule.id for f in check(root, select=["metadata-name"]).findings] == ["metadata-name"]
    # A link that leads elsewhere is one there, too.
    (build / "link.py").symlink_to("__init__.py")
    (build / "up.py").symlink_to("../../../../blobs/../../outside.py")
    (build / "gone.py").symlink_to("../../../../blobs/gone")
    assert found(root) == [
        ("layout-regular-files", f"build/torch-cpu/{name}")
        for name in ("gone.py", "link.py", "up.py")
    ]


def test_bytecode_beside_or_instead_of_source(make_build: Make, found: Find) -> None:
    files = {"__init__.py": "", "layers.py": "", "layers.pyc": b"", "ops.PYC": b"", "old.pyo": b""}
    assert found(make_build("torch-cpu", files)) == [
        ("layout-bytecode", f"build/torch-cpu/{name}")
        for name in ("layers.pyc", "old.pyo", "ops.PYC")
    ]


def test_directories_for_bytecode_are_found_once(make_build: Make, found: Find) -> None:
    files = {
        "__init__.py": "",
        "__pycache__/a.cpython-311.pyc": b"",
        "__pycache__/b.cpython-311.pyc": b"",
        "ops/__pycache__/c.cpython-39.pyc": b"",
    }
    repository = make_build("torch-cpu", files)
    make_build("__pycache__", {"torch-cpu/__init__.py": ""})
    assert found(repository) == [
        ("layout-pycache", "build/__pycache__"),
        ("layout-pycache", "build/torch-cpu/__pycache__"),
        ("layout-pycache", "build/torch-cpu/ops/__pycache__"),
    ]


def test_paths_that_some_systems_take_for_one(make_build: Make, found: Find) -> None:
    files = {
        "__init__.py": "",
        "Layers.py": "",
        "layers.py": "",
        "LAYERS.py": "",
        "Ops/__init__.py": "",
        "ops/__init__.py": "",
        "ops/a.py": "",
        "caf\u00e9.py": "",
        "cafe\u0301.py": "",
    }
    repository = make_build("torch-cpu", files)
    make_build("torch213-cxx11-ACME1-x86_64-linux", {"__init__.py": ""})
    make_build("torch213-cxx11-acme1-x86_64-linux", {"__init__.py": ""})
    assert sorted(found(repository)) == sorted(
        [
            ("layout-collisions", "build/torch-cpu/Layers.py"),
            ("layout-collisions", "build/torch-cpu/layers.py"),
            ("layout-collisions", "build/torch-cpu/ops"),
            ("layout-collisions", "build/torch-cpu/caf\u00e9.py"),
            ("layout-collisions", "build/torch213-cxx11-acme1-x86_64-linux"),
        ]
    )


@pytest.mark.parametrize("name", ["a\\b.py", "a:b.py", "a\nb.py", "a\x1b[2J.py", " ..", "a\u202eb"])
def test_names_that_are_not_safe_to_write(make_build: Make, found: Find, name: str) -> None:
    repository = make_build("torch-cpu", {"__init__.py": "", name: ""})
    assert found(repository) == [("layout-safe-paths", f"build/torch-cpu/{name}")]


def test_what_is_inside_an_unsafe_directory_is_not_found_again(
    make_build: Make, found: Find
) -> None:
    files = {"__init__.py": "", "a\\b/c.py": "", "a\\b/d/e.py": ""}
    repository = make_build("torch-cpu", files)
    assert found(repository) == [("layout-safe-paths", "build/torch-cpu/a\\b")]


@pytest.mark.parametrize(
    "name",
    [
        "aux.py",
        "CON",
        "nul.tar.gz",
        "com1.txt",
        "lpt\u00b9",
        "a.",
        "b ",
        "what?.py",
        "a*.py",
        "<a>",
    ],
)
def test_names_that_windows_does_not_have(make_build: Make, found: Find, name: str) -> None:
    repository = make_build("torch-cpu", {"__init__.py": "", name: ""})
    assert found(repository) == [("layout-windows-names", f"build/torch-cpu/{name}")]


@pytest.mark.parametrize("name", ["auxiliary.py", "console.py", "com10.py", "null.py", ".hidden"])
def test_names_that_windows_has(make_build: Make, found: Find, name: str) -> None:
    assert found(make_build("torch-cpu", {"__init__.py": "", name: ""})) == []


def test_paths_that_are_too_long_for_windows(make_build: Make, found: Find) -> None:
    name = "a" * 60 + "/" + "b" * 60 + ".py"
    repository = make_build("torch-universal", {"__init__.py": "", name: ""})
    assert found(repository) == [("layout-path-length", f"build/torch-universal/{name}")]
    elsewhere = make_build(NATIVE, {"__init__.py": "", name: ""})
    assert found(elsewhere / "build" / NATIVE) == []


def test_one_build_is_checked_by_its_path_and_by_patterns(make_build: Make, found: Find) -> None:
    repository = make_build("torch-cpu", {"layers.py": ""})
    make_build("torch-cuda", {"layers.py": ""})
    assert found(repository / "build" / "torch-cpu") == [("layout-package", "build/torch-cpu")]
    assert found(repository, variants=["*-cuda"]) == [("layout-package", "build/torch-cuda")]
    assert len(found(repository / "build")) == 2
    with pytest.raises(CheckError, match=r"No variant in .* matches nothing; it has"):
        check(repository, variants=["nothing"])
