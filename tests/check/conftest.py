"""Kernel repositories to check, written to disk file by file."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from check.native_files import Zig

from kernels_core.check import check

MakeBuild = Callable[..., Path]

# Functions of stub libraries are used without declaring them.
_IMPLICIT = "-Wno-implicit-function-declaration"


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

    def find(subject: object, **options: Any) -> list[tuple[str, str]]:
        report = check(subject, **options)  # type: ignore[arg-type]
        return [(each.rule.id, each.problem.path) for each in report.findings]

    return find


@pytest.fixture
def link(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compile C into a shared library for Linux; flags that name other libraries come after it.

    `compiler` is a command to use instead of gcc, such as zig's for other processors. Without
    `libc`, only libraries in the flags are linked.
    """

    def make(
        source: str,
        *flags: str | Path,
        name: str = "module.abi3.so",
        libc: bool = False,
        compiler: tuple[str, ...] = ("gcc",),
    ) -> Path:
        directory = tmp_path_factory.mktemp("link")
        code = directory / "code.c"
        code.write_text(source)
        target = directory / name
        command = [
            *compiler,
            "-shared",
            "-fPIC",
            "-O1",
            "-w",
            _IMPLICIT,
            "-o",
            str(target),
            str(code),
        ]
        command += [*map(str, flags), *([] if libc else ["-nostdlib"])]
        subprocess.run(command, check=True)
        return target

    return make


@pytest.fixture
def stub(link: Callable[..., Path]) -> Callable[..., Path]:
    """Make a library of a given name with given functions, each with a given version."""

    def make(soname: str, functions: Mapping[str, str | None] | None = None) -> Path:
        functions = functions or {}
        versions = {version for version in functions.values() if version}
        # The versions follow each other in no order, which is enough to be needed.
        script = "\n".join(
            f"{version} {{ {' '.join(f'{f};' for f, v in functions.items() if v == version)} }};"
            for version in sorted(versions)
        )
        source = "\n".join(f"void {function}(void) {{}}" for function in functions)
        flags: list[str | Path] = [f"-Wl,-soname,{soname}"]
        if script:
            file = link("", name="scratch.so").with_name("versions.map")
            file.write_text(script)
            flags.append(f"-Wl,--version-script,{file}")
        return link(source, *flags, name=soname)

    return make


def _strip_sections(library: bytes) -> bytes:
    """Remove the section table, which no loader needs."""
    is_64_bit = library[4] == 2
    offset, width = (0x28, 8) if is_64_bit else (0x20, 4)
    end = int.from_bytes(library[offset : offset + width], "little")
    changed = bytearray(library[:end])
    changed[offset : offset + width] = bytes(width)
    count = 0x3C if is_64_bit else 0x30
    changed[count : count + 4] = bytes(4)  # e_shnum, e_shstrndx
    return bytes(changed)


@pytest.fixture(params=["as linked", "stripped", "without sections"])
def form(request: pytest.FixtureRequest) -> Callable[[Path], bytes]:
    """The content of a library as linked, stripped, and without a section table."""

    def content(library: Path) -> bytes:
        if request.param != "as linked":
            subprocess.run(["strip", "--strip-all", str(library)], check=True)
        data = library.read_bytes()
        return _strip_sections(data) if request.param == "without sections" else data

    return content


@pytest.fixture
def rules(make_build: MakeBuild) -> Callable[..., list[tuple[str, str | None]]]:
    """Put one native file into a build; returns the rules that it breaks, and the symbols."""

    def find(
        content: bytes,
        variant: str = "torch213-cxx11-cpu-x86_64-linux",
        name: str = "module.abi3.so",
    ) -> list[tuple[str, str | None]]:
        repository = make_build(variant, {"__init__.py": "", name: content})
        report = check(repository, select=("native", "elf", "abi3", "torch", "device"))
        assert report.native_modules == 1
        assert {each.problem.path for each in report.findings} <= {f"build/{variant}/{name}"}
        return [(each.rule.id, each.problem.symbol) for each in report.findings]

    return find


@pytest.fixture(scope="session")
def zig(tmp_path_factory: pytest.TempPathFactory) -> Zig:
    """A compiler for macOS and Windows."""
    return Zig(tmp_path_factory.mktemp("zig"))


@pytest.fixture
def judge(
    make_build: MakeBuild, request: pytest.FixtureRequest
) -> Callable[..., list[tuple[str, str]]]:
    """The rules about native code that a library in a build breaks, with the messages.

    Without other arguments, the variant and the file have the names `CPU` and `FILE` of the test's
    module.
    """

    def judge(
        content: Path | bytes, variant: str | None = None, name: str | None = None
    ) -> list[tuple[str, str]]:
        variant, name = variant or request.module.CPU, name or request.module.FILE
        content = content.read_bytes() if isinstance(content, Path) else content
        repository = make_build(variant, {name: content})
        families = ("native", "macho", "pe", "abi3")
        found = check(repository, variants=[variant], select=families).findings
        assert all(each.problem.path == f"build/{variant}/{name}" for each in found)
        return [(each.rule.id, each.problem.message) for each in found]

    return judge
