"""Libraries for macOS: reading them, and the rules about them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from check import native_files as files
from check.native_files import MODULE, Zig, command, for_release, image_in, macho

from kernels_core.check import check
from kernels_core.check.facts.native import MachOImage

CPU = "torch213-cpu-aarch64-darwin"
FILE = "activation.abi3.so"
METAL = "torch213-metal-aarch64-darwin"

Judge = Callable[..., list[tuple[str, str]]]


def image(content: bytes, tmp_path: Path) -> MachOImage:
    return image_in(content, tmp_path / FILE, MachOImage)


def library(*commands: bytes, **options: Any) -> bytes:
    return macho([for_release(15), *commands], **options)


@pytest.mark.parametrize("flags", [(), ("-s",), ("-Wl,-rpath,@loader_path",)])
def test_a_compliant_library(zig: Zig, judge: Judge, flags: tuple[str, ...]) -> None:
    source = MODULE + "extern int puts(const char *); EXPORT int hello(void) { return puts(0); }"
    assert judge(zig.macos(source, *flags)) == []


def test_what_is_read_of_a_library(zig: Zig, tmp_path: Path) -> None:
    compiled = zig.macos(MODULE, "-Wl,-rpath,/opt/lib", release="14.2")
    found = image(compiled.read_bytes(), tmp_path)
    assert (found.cpu, found.os) == ("aarch64", "darwin")
    assert found.platforms == {"macOS": (14, 2)}
    assert found.libraries == ("/usr/lib/libSystem.B.dylib",)
    assert found.run_paths == ("/opt/lib",)
    assert found.install_name == "@rpath/activation.abi3.so"
    assert found.signed
    assert "PyModule_Create2" in found.imported
    assert "PyInit_activation" in found.exported


@pytest.mark.parametrize("flags", [(), ("-s",)])
@pytest.mark.parametrize("cpu", ["aarch64", "x86_64"])
def test_python_beyond_the_stable_abi(
    zig: Zig, judge: Judge, cpu: str, flags: tuple[str, ...]
) -> None:
    source = (
        "extern void *PyFrame_GetBack(void *); EXPORT void *f(void) { return PyFrame_GetBack(0); }"
    )
    ((rule, message),) = judge(zig.macos(source, *flags, cpu=cpu), f"torch213-cpu-{cpu}-darwin")
    assert rule == "abi3-stable"
    assert "PyFrame_GetBack" in message


@pytest.mark.parametrize("flags", [(), ("-s",)])
def test_python_newer_than_3_9(zig: Zig, judge: Judge, flags: tuple[str, ...]) -> None:
    source = "extern int PyModule_AddType(void *, void *);"
    source += "EXPORT int f(void) { return PyModule_AddType(0, 0); }"
    ((rule, message),) = judge(zig.macos(source, *flags))
    assert rule == "abi3-oldest"
    assert "PyModule_AddType (Python 3.10)" in message


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_imports_of_newer_linkers(judge: Judge, tmp_path: Path, kind: int) -> None:
    names = ["_PyFrame_GetBack", "_PyFrame_GetBuiltins", "_puts"]
    fixups = files.chained_fixups(names, kind, weak=["_PyFrame_GetBuiltins"])
    exports = files.exports_trie("_PyInit_activation")
    tables = {files.CHAINED_FIXUPS: fixups, files.EXPORTS_TRIE: exports}
    content = library(tables=tables)
    found = image(content, tmp_path)
    assert found.imported == ("PyFrame_GetBack", "PyFrame_GetBuiltins", "puts")
    assert found.optional == {"PyFrame_GetBuiltins"}
    assert found.exported == ("PyInit_activation",)
    ((rule, message),) = judge(content)
    assert rule == "abi3-stable"
    assert "GetBack" in message
    assert "GetBuiltins" not in message


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("/opt/homebrew/opt/libomp/lib/libomp.dylib", "native-libraries"),
        ("/Users/me/venv/lib/python3.11/site-packages/torch/lib/libc10.dylib", "native-libraries"),
        ("@rpath/libfoo.dylib", "native-libraries"),
        ("@rpath/libpython3.11.dylib", "abi3-libpython"),
        ("/Library/Frameworks/Python.framework/Versions/3.11/Python", "abi3-libpython"),
        ("@rpath/libc10.dylib", None),
        ("/usr/lib/libobjc.A.dylib", None),
        ("/System/Library/Frameworks/Accelerate.framework/Versions/A/Accelerate", None),
    ],
)
def test_libraries(zig: Zig, judge: Judge, name: str, rule: str | None) -> None:
    other = zig.macos("EXPORT int g(void) { return 1; }", f"-Wl,-install_name,{name}")
    source = "extern int g(void); EXPORT int f(void) { return g(); }"
    found = judge(zig.macos(source, str(other)))
    assert [each for each, _ in found] == ([rule] if rule else [])
    assert all(name in message for _, message in found)


@pytest.mark.parametrize(
    ("release", "variant", "broken"),
    [
        ("11.0", CPU, False),
        ("15.0", CPU, False),
        ("15.1", CPU, True),
        ("26.0", CPU, True),
        ("26.0", METAL, False),
        ("26.1", METAL, True),
        ("26.0", "torch-stable-abi213-metal-aarch64-darwin", False),
    ],
)
def test_deployment_target(
    zig: Zig, judge: Judge, release: str, variant: str, broken: bool
) -> None:
    found = judge(zig.macos(release=release), variant)
    newest = "26.0" if "metal" in variant else "15.0"
    message = f"needs macOS {release}; expected {newest} or older"
    assert found == ([("macho-deployment-target", message)] if broken else [])


def test_deployment_target_of_a_file_by_itself(zig: Zig) -> None:
    assert check(zig.macos(release="26.0")).clean
    (finding,) = check(zig.macos(release="27.0")).findings
    assert finding.rule.id == "macho-deployment-target"


@pytest.mark.parametrize(("release", "broken"), [(11 << 16, False), (15 << 16 | 1 << 8, True)])
def test_deployment_target_in_its_older_form(judge: Judge, release: int, broken: bool) -> None:
    found = judge(macho([command(files.VERSION_MIN_MACOSX, release, 0)]))
    message = "needs macOS 15.1; expected 15.0 or older"
    assert found == ([("macho-deployment-target", message)] if broken else [])


@pytest.mark.parametrize(
    ("commands", "message"),
    [
        ([for_release(17, files.IOS)], "is for iOS; expected macOS with its oldest release"),
        ([], "names no platform; expected macOS with its oldest release"),
    ],
)
def test_platform(judge: Judge, commands: list[bytes], message: str) -> None:
    assert judge(macho(commands)) == [("macho-platform", message)]


def test_a_library_for_macos_and_ipads(judge: Judge) -> None:
    assert judge(library(for_release(17, 6))) == []


@pytest.mark.parametrize("path", ["/Users/me/venv/lib", "@loader_path/../torch/lib", ""])
def test_run_paths(zig: Zig, judge: Judge, path: str) -> None:
    content = library(command(files.RPATH, text=path))
    if path:
        content = zig.macos(MODULE, f"-Wl,-rpath,{path}").read_bytes()
    ((rule, message),) = judge(content)
    assert rule == "macho-rpath"
    assert message.startswith(f"searches for libraries in {path!r};")


def test_signature(judge: Judge, zig: Zig) -> None:
    assert judge(library(signed=False)) == [
        ("macho-signature", "has no code signature (LC_CODE_SIGNATURE)")
    ]
    # zig signs code for Apple's processors only, and the others need no signature.
    intel = zig.macos(cpu="x86_64")
    assert not image(intel.read_bytes(), intel.parent).signed
    assert judge(intel, "torch213-cpu-x86_64-darwin") == []


def test_install_name(zig: Zig, judge: Judge) -> None:
    found = judge(zig.macos(MODULE, "-Wl,-install_name,/Users/me/build/x.so"))
    message = "has the install name /Users/me/build/x.so; expected @rpath/... or none"
    assert found == [("macho-install-name", message)]


@pytest.mark.parametrize("name", ["x.so", "@loader_path/x.so", "/usr/lib/libx.dylib"])
def test_install_names_of_no_machine(zig: Zig, judge: Judge, name: str) -> None:
    assert judge(zig.macos(MODULE, f"-Wl,-install_name,{name}")) == []


@pytest.mark.parametrize("wide", [False, True])
def test_universal_files(zig: Zig, judge: Judge, wide: bool) -> None:
    arm = zig.macos().read_bytes()
    # The part for other machines does not matter.
    intel = zig.macos(MODULE, "-Wl,-rpath,/opt/lib", cpu="x86_64").read_bytes()
    content = files.universal({files.X86_64: intel, files.ARM64: arm}, wide=wide)
    assert judge(content) == []
    assert judge(content, "torch213-cpu-x86_64-darwin") == [
        ("macho-rpath", "searches for libraries in '/opt/lib'; expected @loader_path or no rpath")
    ]


def test_a_universal_file_of_any_name(judge: Judge) -> None:
    content = files.universal({files.ARM64: library(signed=False)})
    assert [rule for rule, _ in judge(content, name="helper")] == ["macho-signature"]


@pytest.mark.parametrize("number", [0xC, 0x80000018, 0x8000001F, 0x20, 0x80000023])
def test_each_way_to_need_a_library(judge: Judge, number: int) -> None:
    content = library(command(number, 0, 0, 0, text="@rpath/libfoo.dylib"))
    assert [rule for rule, _ in judge(content)] == ["native-libraries"]


def test_a_universal_file_for_other_cpus(judge: Judge) -> None:
    content = files.universal(
        {files.X86_64: library(cpu=files.X86_64), files.X86_64 + 1: library(cpu=0x01000012)}
    )
    assert judge(content) == [
        ("native-platform", "is for x86_64-darwin and PowerPC64-darwin; expected aarch64-darwin")
    ]


def test_parts_that_nobody_loads_are_passed_by(judge: Judge) -> None:
    old = b"\xce\xfa\xed\xfe" + bytes(60)
    archive = b"!<arch>\n" + bytes(60)
    content = files.universal({files.I386: old, 18: archive, files.ARM64: library()})
    assert judge(content) == []
    ((rule, message),) = judge(files.universal({files.I386: old}), METAL)
    assert rule == "native-readable"
    assert message.endswith("it has no code for 64-bit machines")


def test_code_for_another_machine(zig: Zig, judge: Judge) -> None:
    found = judge(zig.macos(cpu="x86_64"))
    assert found == [("native-platform", "is for x86_64-darwin; expected aarch64-darwin")]


@pytest.mark.parametrize("kind", [1, 2, 10])
def test_programs_and_objects_are_no_libraries(judge: Judge, kind: int) -> None:
    content = macho([], kind=kind, signed=False)
    assert judge(content, name="helper") == []
    ((rule, message),) = judge(content, METAL)
    assert rule == "native-readable"
    assert "it is not a dynamic library but a " in message


def test_symbols_of_libraries_without_newer_tables(tmp_path: Path) -> None:
    names = b"\0_PyInit_x\0_PyModule_Create2\0_hidden\0_debug\0"
    external, undefined, section = 0x01, 0x00, 0x0E
    rows = [
        (names.index(b"_PyInit"), external | section, 0),
        (names.index(b"_PyModule"), external | undefined, 0x40),
        (names.index(b"_hidden"), external | section | 0x10, 0),
        (names.index(b"_debug"), external | 0x24, 0),
    ]
    table = b"".join(files.symbol(*row) for row in rows)
    start = 32 + 24 + len(for_release(15))
    content = macho(
        [
            for_release(15),
            command(files.SYMTAB, start, len(rows), start + len(table), len(names)),
        ],
        signed=False,
    )
    found = image(content + table + names, tmp_path)
    assert found.exported == ("PyInit_x",)
    assert found.imported == ("PyModule_Create2",)
    assert found.optional == {"PyModule_Create2"}


def test_what_a_library_defines_itself_is_no_import(tmp_path: Path) -> None:
    tables = {
        files.CHAINED_FIXUPS: files.chained_fixups(["__ZN3c104sizeEv", "_puts"]),
        files.EXPORTS_TRIE: files.exports_trie("__ZN3c104sizeEv"),
    }
    assert image(library(tables=tables), tmp_path).imported == ("puts",)


def test_imports_of_programs_that_bind_symbols(tmp_path: Path) -> None:
    # Of each step: what it does, and the numbers of variable length that follow.
    bindings = b"\x11\x20\x85\x01\x51\x40_PyModule_Create2\0\x72\x88\x01\x90\xc0\x02\x42"
    bindings += b"\x41_PyFrame_GetBack\0\x60\x7f\xa0\x10\xd0\x43\xd1\xb1\x80\x90\x01\0"
    later = b"\x40_puts\0\x90\0\x41_PyModule_Create2\0\x90\0"
    exports = files.exports_trie("_PyInit_activation")
    start = 32 + len(for_release(15)) + 48
    places = []
    for content in (bindings, b"", later, exports):
        places += [start, len(content)]
        start += len(content)
    info = command(files.DYLD_INFO_ONLY, 0, 0, *places)
    content = macho([for_release(15), info], signed=False) + bindings + later + exports
    found = image(content, tmp_path)
    assert found.imported == ("PyModule_Create2", "PyFrame_GetBack", "puts")
    assert found.optional == {"PyFrame_GetBack"}
    assert found.exported == ("PyInit_activation",)
