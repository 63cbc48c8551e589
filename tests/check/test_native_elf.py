"""Native code for Linux: real libraries, whole and stripped, with one defect or none."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kernels_core.check import check
from kernels_core.check.rules.native import python_abi
from kernels_core.errors import CheckError

FAMILIES = ("native", "elf", "abi3", "torch", "device")
VARIANT = "torch213-cxx11-cpu-x86_64-linux"

# A module as Python loads it, that takes functions from Python, torch and the C library.
MODULE = """
extern void *PyModule_Create2(void *, int), c10_function(void);
int used(void);
static int data; int *pointer = &data;
void *PyInit_module(void) { c10_function(); used(); return PyModule_Create2(0, 1013); }
"""
OWN = "int used(void) { return 0; }"
AARCH64 = (sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu")

Link = Callable[..., Path]
MakeBuild = Callable[..., Path]


# A library that is as it should be.


def test_a_compliant_module_passes(
    link: Link, stub: Link, form: Callable[[Path], bytes], rules: Callable[..., object]
) -> None:
    versions = {"older": "GLIBC_2.2.5", "new_one": "GLIBC_2.28", "fast": "GLIBC_2.18"}
    libc = stub("libc.so.6", versions)
    libcxx = stub("libstdc++.so.6", {"cxx": "GLIBCXX_3.4.24", "abi": "CXXABI_1.3.11"})
    calls = "".join(f"{name}();" for name in ("older", "new_one", "fast", "cxx", "abi"))
    source = f"{MODULE} int used(void) {{ {calls} }}"
    library = link(source, libc, libcxx, stub("libc10.so"), "-Wl,-rpath,$ORIGIN")
    assert rules(form(library)) == []


def test_a_module_linked_by_lld_for_another_processor_passes(
    link: Link, rules: Callable[..., object]
) -> None:
    library = link(MODULE + OWN, compiler=AARCH64)
    assert rules(library.read_bytes(), "torch213-cxx11-cpu-aarch64-linux") == []


# The C library and its loader.


@pytest.mark.parametrize(
    ("soname", "version"),
    [
        ("libc.so.6", "GLIBC_2.34"),
        ("libc.so.6", "GLIBC_2.19"),  # None of x86_64, though the number is lower.
        ("libc.so.6", "GLIBC_PRIVATE"),
        ("libstdc++.so.6", "GLIBCXX_3.4.25"),
        ("libstdc++.so.6", "CXXABI_1.3.12"),
        ("libgcc_s.so.1", "GCC_12.0.0"),
    ],
)
def test_a_version_beyond_the_policy(
    soname: str,
    version: str,
    link: Link,
    stub: Link,
    form: Callable[[Path], bytes],
    rules: Callable[..., object],
) -> None:
    library = link(
        f"{MODULE} int used(void) {{ newer(); old(); }}",
        stub(soname, {"newer": version, "old": f"{version.split('_')[0]}_2.2.5"})
        if soname == "libc.so.6"
        else stub(soname, {"newer": version, "old": None}),
    )
    assert rules(form(library)) == [("elf-manylinux", "newer")]


def test_all_versions_of_one_library_are_in_one_finding(link: Link, stub: Link) -> None:
    library = link(
        f"{MODULE} int used(void) {{ dlopen(); dlsym(); arc4random(); }}",
        stub(
            "libc.so.6", {"dlopen": "GLIBC_2.34", "dlsym": "GLIBC_2.34", "arc4random": "GLIBC_2.36"}
        ),
    )
    (finding,) = check(library, select=["elf"]).findings
    assert "GLIBC_2.34 (dlopen, dlsym)" in finding.problem.message
    assert "GLIBC_2.36 (arc4random)" in finding.problem.message
    assert finding.problem.message.endswith("but the newest of manylinux_2_28 is GLIBC_2.28")


def test_each_architecture_has_versions_of_its_own(
    link: Link, rules: Callable[..., object], tmp_path: Path
) -> None:
    script = tmp_path / "versions.map"
    script.write_text("GLIBC_2.2.5 { old; };")
    libc = link(
        "void old(void) {}",
        "-Wl,-soname,libc.so.6",
        f"-Wl,--version-script,{script}",
        name="libc.so.6",
        compiler=AARCH64,
    )
    library = link(f"{MODULE} int used(void) {{ old(); }}", libc, compiler=AARCH64)
    found = rules(library.read_bytes(), "torch213-cxx11-cpu-aarch64-linux")
    assert found == [("elf-manylinux", "old")]


def test_versions_of_other_libraries_are_not_the_policys(
    link: Link, stub: Link, rules: Callable[..., object]
) -> None:
    library = link(
        f"{MODULE} int used(void) {{ newer(); }}", stub("libgomp.so.1", {"newer": "GOMP_9.0"})
    )
    assert rules(library.read_bytes()) == []


def test_a_version_that_the_loader_may_do_without(
    link: Link, stub: Link, tmp_path: Path, rules: Callable[..., object]
) -> None:
    # The loader requires the version even if the symbol is optional, unless the need has a mark.
    library = link(
        f"extern void newer(void) __attribute__((weak)); {MODULE}"
        "int used(void) { older(); if (newer) newer(); }",
        stub("libc.so.6", {"newer": "GLIBC_2.34", "older": None}),
    )
    content = library.read_bytes()
    assert rules(content) == [("elf-manylinux", "newer")]
    needs = struct.unpack_from("<Q", content, _dynamic_tag(content, 0x6FFFFFFE))[0]
    marked = tmp_path / "marked.so"
    marked.write_bytes(_patched(content, needs + 16 + 4, 2, size=2))  # VER_FLG_WEAK
    assert not check(marked, select=FAMILIES).findings


def test_a_new_function_without_a_version(
    link: Link, form: Callable[[Path], bytes], rules: Callable[..., object]
) -> None:
    library = link(f"{MODULE} int used(void) {{ return gettid() + getpid(); }}")
    assert rules(form(library)) == [("elf-new-symbols", "gettid")]


@pytest.mark.parametrize("style", ["gnu", "sysv", "both"])
def test_symbols_are_found_without_any_that_are_exported(
    style: str, link: Link, form: Callable[[Path], bytes], rules: Callable[..., object]
) -> None:
    # No table of hashes need list imported symbols; relocations refer to them.
    source = "static void __attribute__((constructor)) start(void) { getpid(); gettid(); }"
    library = link(source, f"-Wl,--hash-style={style}")
    assert rules(form(library)) == [("elf-new-symbols", "gettid")]


@pytest.mark.parametrize("libc", [True, False])
def test_packed_relocations(
    libc: bool, link: Link, form: Callable[[Path], bytes], rules: Callable[..., object]
) -> None:
    library = link(MODULE + OWN, "-Wl,-z,pack-relative-relocs", libc=libc)
    assert rules(form(library)) == [("elf-packed-relocations", None)]


@pytest.mark.parametrize("tags", ["--enable-new-dtags", "--disable-new-dtags"])
@pytest.mark.parametrize(
    ("path", "count"),
    [
        ("$ORIGIN", 0),
        ("${ORIGIN}/", 0),
        ("/opt/lib", 1),
        ("$ORIGIN/../lib", 1),
        ("$ORIGIN:/opt/lib:/usr/lib", 2),
        ("$ORIGIN:", 1),
    ],
)
def test_search_paths(
    tags: str,
    path: str,
    count: int,
    link: Link,
    form: Callable[[Path], bytes],
    rules: Callable[..., list[object]],
) -> None:
    library = link(MODULE + OWN, f"-Wl,{tags}", f"-Wl,-rpath,{path}")
    assert rules(form(library)) == [("elf-rpath", None)] * count


def test_an_executable_stack(
    link: Link, form: Callable[[Path], bytes], rules: Callable[..., object]
) -> None:
    library = link(MODULE + OWN, "-Wl,-z,execstack")
    assert rules(form(library)) == [("elf-executable-stack", None)]


def test_text_relocations(
    link: Link, form: Callable[[Path], bytes], rules: Callable[..., object]
) -> None:
    source = f'{MODULE} __asm__(".text\\n.globl used\\nused: .quad used\\n");'
    library = link(source, "-Wl,-z,notext")
    assert rules(form(library)) == [("elf-text-relocations", None)]


# Libraries.


@pytest.mark.parametrize(
    "soname", ["libz.so.1", "libglib-2.0.so.0", "libcudart.so.12", "libtorch_cuda.so", "libown.so"]
)
def test_a_foreign_library(
    soname: str,
    link: Link,
    stub: Link,
    form: Callable[[Path], bytes],
    rules: Callable[..., object],
) -> None:
    library = link(f"{MODULE} int used(void) {{ foreign(); }}", stub(soname, {"foreign": None}))
    assert rules(form(library)) == [("native-libraries", None)]


@pytest.mark.parametrize(
    ("tag", "soname", "fine"),
    [
        ("cu130", "libcudart.so.13", True),
        ("cu130", "libcudart.so.12", False),
        ("cu128", "libcublasLt.so.12", True),
        ("cu130", "libtorch_cuda.so", True),
        ("rocm72", "libamdhip64.so.7", True),
        ("rocm72", "libcudart.so.13", False),
        ("xpu20260", "libsycl.so.9", True),
        # Of a backend that is not known, only what is foreign everywhere.
        ("acme21", "libacme-runtime.so.2", True),
        ("acme21", "libz.so.1", False),
        ("acme21", "/opt/acme/libacme-runtime.so", False),
    ],
)
def test_each_backend_has_libraries_of_its_own(
    tag: str, soname: str, fine: bool, link: Link, rules: Callable[..., object]
) -> None:
    given = link("void library(void) {}", f"-Wl,-soname,{soname}", name="given.so")
    library = link(f"{MODULE} int used(void) {{ library(); }}", given)
    found = rules(library.read_bytes(), f"torch213-cxx11-{tag}-x86_64-linux")
    assert found == ([] if fine else [("native-libraries", None)])


def test_a_file_by_itself_may_need_the_libraries_of_any_backend(link: Link, stub: Link) -> None:
    library = link(
        f"{MODULE} int used(void) {{ a(); b(); }}",
        stub("libcudart.so.13", {"a": None}),
        stub("libz.so.1", {"b": None}),
    )
    report = check(library, select=FAMILIES)
    messages = [each.problem.message for each in report.findings]
    assert [message.split(",")[0] for message in messages] == ["needs libz.so.1"]


# Platforms.


@pytest.mark.parametrize("variant", ["torch-cpu", "torch-universal"])
def test_native_code_in_a_build_for_all_machines(
    variant: str, link: Link, rules: Callable[..., object]
) -> None:
    assert rules(link(MODULE + OWN).read_bytes(), variant) == [("native-noarch", None)]


@pytest.mark.parametrize(
    ("variant", "compiler"),
    [
        ("torch213-cxx11-cpu-aarch64-linux", ("gcc",)),
        ("torch213-cpu-x86_64-windows", ("gcc",)),
        ("torch213-cpu-x86_64-darwin", ("gcc",)),
        (VARIANT, AARCH64),
        (VARIANT, ("gcc", "-m32")),
        ("torch213-cxx11-cpu-aarch64-linux", (*AARCH64[:-1], "aarch64_be-linux-gnu")),
    ],
)
def test_native_code_for_another_machine(
    variant: str,
    compiler: tuple[str, ...],
    link: Link,
    rules: Callable[..., object],
) -> None:
    source = "int answer(void) { return 42; }"
    try:
        library = link(source, compiler=compiler)
    except Exception as error:
        if compiler == ("gcc", "-m32"):
            pytest.skip(f"gcc has no 32 bits here: {error}")
        raise
    assert rules(library.read_bytes(), variant) == [("native-platform", None)]


# What cannot be read.


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        b"\x7fELF",
        b"\x7fELF" + bytes(60),
        b"GROUP ( libm.so.6 )",
    ],
)
def test_what_is_named_like_a_library_and_is_none(
    content: bytes, rules: Callable[..., object]
) -> None:
    assert rules(content) == [("native-readable", None)]


def test_what_is_no_library_is_not_judged(link: Link, make_build: MakeBuild) -> None:
    directory = link("int answer(void) { return 42; }").parent
    link_object = directory / "code.o"
    files = {
        "kernel.cubin": b"\x7fELF\x02\x01" + bytes(10) + struct.pack("<HH", 2, 190) + bytes(44),
        "kernel.hsaco": b"\x7fELF\x02\x01" + bytes(10) + struct.pack("<HH", 3, 224) + bytes(44),
        "code.c": (directory / "code.c").read_bytes(),
        "MZ.txt": b"MZ" + bytes(100),
    }
    assert not link_object.exists()
    assert check(make_build(VARIANT, files), select=FAMILIES).native_modules == 0


@pytest.mark.parametrize("missing", ["elftools.elf.elffile", "abi3info"])
def test_without_what_reads_native_code(
    missing: str, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "kernels_core.check.native.elf", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    python_abi._stable_since.cache_clear()
    with pytest.raises(CheckError, match=r"pip install 'kernels-core\[check\]'"):
        check(link(f"{MODULE}{OWN}"), select=FAMILIES)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9, 0.99])
def test_a_library_that_is_cut_off(keep: float, link: Link, rules: Callable[..., object]) -> None:
    content = link(MODULE + OWN).read_bytes()
    assert rules(content[: int(len(content) * keep)]) == [("native-readable", None)]


def _dynamic_tag(content: bytes, tag: int) -> int:
    """The position of the value of a dynamic tag in a library."""
    segments = (64 + 56 * number for number in range(content[0x38]))
    (start,) = (
        struct.unpack_from("<Q", content, segment + 8)[0]
        for segment in segments
        if content[segment] == 2  # PT_DYNAMIC
    )
    while struct.unpack_from("<Q", content, start)[0] != tag:
        start += 16
    return int(start) + 8


def _patched(content: bytes, offset: int, value: int, size: int = 8) -> bytes:
    return content[:offset] + value.to_bytes(size, "little") + content[offset + size :]


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        (5, 2**63),  # DT_STRTAB
        (6, 2**40),  # DT_SYMTAB
        (10, 2**48),  # DT_STRSZ
        (0x6FFFFEF5, 2**64 - 8),  # DT_GNU_HASH
        (0x6FFFFFFE, 2**63),  # DT_VERNEED
    ],
)
def test_a_table_that_lies_nowhere(
    tag: int, value: int, link: Link, stub: Link, rules: Callable[..., object]
) -> None:
    library = link(f"{MODULE} int used(void) {{ a(); }}", stub("libc.so.6", {"a": "GLIBC_2.2.5"}))
    content = library.read_bytes()
    changed = _patched(content, _dynamic_tag(content, tag), value)
    assert rules(changed) == [("native-readable", None)]


def test_a_hash_table_that_says_too_many_symbols(link: Link, rules: Callable[..., object]) -> None:
    library = link(MODULE + OWN, "-Wl,--hash-style=sysv")
    content = library.read_bytes()
    table = struct.unpack_from("<Q", content, _dynamic_tag(content, 4))[0]  # DT_HASH
    path = library.with_name("changed.so")
    path.write_bytes(_patched(content, table + 4, 2**31, size=4))
    (finding,) = check(path, select=FAMILIES).findings
    assert "more than the limit of 1000000" in finding.problem.message


def test_a_large_library_takes_little_memory(link: Link, form: Callable[[Path], bytes]) -> None:
    library = link(MODULE + OWN)
    library.write_bytes(form(library))
    os.truncate(library, 500 * 2**20)  # A hole, which takes no room on disk.
    program = (
        "import re, sys\n"
        "from kernels_core.check import check\n"
        "assert check(sys.argv[1], select=['native', 'elf', 'abi3']).native_modules == 1\n"
        "print(re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1])"
    )
    command = [sys.executable, "-c", program, str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) / 1024 < 100  # megabytes
