"""Libraries for Windows: reading them, and the rules about them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from check.native_files import MODULE, Zig, image_in, pe

from kernels_core.check.facts.native import PeImage

CPU = "torch213-cpu-x86_64-windows"
FILE = "activation.pyd"

# `f` takes the function `g` from elsewhere.
TAKES_G = "extern int g(void); EXPORT int f(void) { return g(); }"

Judge = Callable[..., list[tuple[str, str]]]


def image(content: bytes, tmp_path: Path) -> PeImage:
    return image_in(content, tmp_path / FILE, PeImage)


@pytest.mark.parametrize("cpu", ["x86_64", "aarch64"])
def test_a_compliant_library(zig: Zig, judge: Judge, cpu: str) -> None:
    source = MODULE + "extern int g(void); EXPORT int f(void) { return g(); }"
    libraries = {"python3.dll": ["PyModule_Create2"], "KERNEL32.dll": ["g"]}
    assert judge(zig.windows(source, libraries, cpu=cpu), f"torch213-cpu-{cpu}-windows") == []


def test_what_is_read_of_a_library(zig: Zig, tmp_path: Path) -> None:
    found = image(zig.windows().read_bytes(), tmp_path)
    assert (found.cpu, found.os) == ("x86_64", "windows")
    assert found.libraries == ("python3.dll",)
    assert found.imported == ("PyModule_Create2",)
    assert found.exported == ("PyInit_activation",)
    assert found.by_number == ()


def test_delayed_libraries_are_read_like_others(tmp_path: Path) -> None:
    content = pe({"a.dll": ["f", 7], "b.dll": [8]}, delayed={"c.dll": ["g"], "a.dll": ["h"]})
    found = image(content, tmp_path)
    assert found.libraries == ("a.dll", "b.dll", "c.dll")
    assert found.imported == ("f", "g", "h")
    assert found.by_number == ("a.dll", "b.dll")
    assert found.exported == ("PyInit_activation",)


def test_the_long_names_of_templates(tmp_path: Path) -> None:
    name = "?f@@" + "x" * 9000
    assert image(pe({"a.dll": [name]}), tmp_path).imported == (name,)


def test_imports_without_a_table_of_lookups(tmp_path: Path) -> None:
    assert image(pe({"a.dll": ["f", "g"]}, with_lookups=False), tmp_path).imported == ("f", "g")


def test_python_beyond_the_stable_abi(zig: Zig, judge: Judge) -> None:
    source = (
        "extern void *PyFrame_GetBack(void *); EXPORT void *f(void) { return PyFrame_GetBack(0); }"
    )
    ((rule, message),) = judge(zig.windows(source, {"python3.dll": ["PyFrame_GetBack"]}))
    assert rule == "abi3-stable"
    assert "PyFrame_GetBack" in message


def test_python_newer_than_3_9(zig: Zig, judge: Judge) -> None:
    source = "extern int PyModule_AddType(void *, void *);"
    source += "EXPORT int f(void) { return PyModule_AddType(0, 0); }"
    ((rule, message),) = judge(zig.windows(source, {"python3.dll": ["PyModule_AddType"]}))
    assert rule == "abi3-oldest"
    assert "PyModule_AddType (Python 3.10)" in message


@pytest.mark.parametrize(
    "library", ["python311.dll", "Python39.DLL", "python313t.dll", "python3_d.dll", "python3t.dll"]
)
def test_python_of_one_version(zig: Zig, judge: Judge, library: str) -> None:
    found = judge(zig.windows(libraries={library: ["PyModule_Create2"]}))
    assert found == [("pe-python", f"needs {library}; expected python3.dll")]


def test_python_of_one_version_loaded_later(judge: Judge) -> None:
    found = judge(pe({}, delayed={"python311.dll": ["PyModule_Create2"]}))
    assert found == [("pe-python", "needs python311.dll; expected python3.dll")]


def test_python_by_number(zig: Zig, judge: Judge) -> None:
    found = judge(zig.windows(libraries={"python3.dll": ["PyModule_Create2 @ 7 NONAME"]}))
    assert found == [("pe-python-by-number", "imports functions of python3.dll by ordinal")]


@pytest.mark.parametrize(
    ("library", "variant", "broken"),
    [
        ("c10.dll", CPU, False),
        ("MSVCP140.dll", CPU, False),
        ("VCRUNTIME140_1.dll", CPU, False),
        ("api-ms-win-crt-heap-l1-1-0.dll", CPU, False),
        ("zlib1.dll", CPU, True),
        ("libstdc++-6.dll", CPU, True),
        ("cudart64_12.dll", CPU, True),
        ("cudart64_12.dll", "torch213-cu128-x86_64-windows", False),
        ("cublasLt64_13.dll", "torch213-cu130-x86_64-windows", False),
        ("cublasLt64_12.dll", "torch213-cu130-x86_64-windows", True),
        ("sycl8.dll", "torch213-xpu20253-x86_64-windows", False),
    ],
)
def test_libraries(zig: Zig, judge: Judge, library: str, variant: str, broken: bool) -> None:
    found = judge(zig.windows(TAKES_G, {library: ["g"]}), variant)
    assert [rule for rule, _ in found] == (["native-libraries"] if broken else [])
    assert all(f"needs {library}, which is neither a library" in message for _, message in found)


@pytest.mark.parametrize(
    "library",
    ["ucrtbased.dll", "VCRUNTIME140D.dll", "VCRUNTIME140_1D.dll", "MSVCP140D.dll", "msvcr120d.dll"],
)
def test_runtimes_for_debugging(zig: Zig, judge: Judge, library: str) -> None:
    found = judge(zig.windows(TAKES_G, {library: ["g"]}))
    assert found == [("pe-debug-runtime", f"needs {library}, a debug runtime")]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("activation.pyd", None),
        ("activation.so", "pe-name"),
        ("activation.dll", "pe-name"),
        ("activation.abi3.pyd", "pe-name"),
        ("activation.cp311-win_amd64.pyd", "abi3-name"),
    ],
)
def test_names(zig: Zig, judge: Judge, name: str, rule: str | None) -> None:
    assert [each for each, _ in judge(zig.windows(), name=name)] == ([rule] if rule else [])


def test_a_library_that_is_no_python_module_may_have_any_name(zig: Zig, judge: Judge) -> None:
    library = zig.windows(TAKES_G, {"c10.dll": ["g"]})
    assert judge(library, name="activation.dll") == []


def test_code_for_another_machine(zig: Zig, judge: Judge) -> None:
    found = judge(zig.windows(cpu="aarch64"))
    assert found == [("native-platform", "is for aarch64-windows; expected x86_64-windows")]


def test_code_for_another_system(zig: Zig, judge: Judge) -> None:
    found = judge(zig.windows(), "torch213-cpu-x86_64-darwin")
    assert found == [("native-platform", "is for x86_64-windows; expected x86_64-darwin")]


def test_programs_are_no_libraries(judge: Judge) -> None:
    content = pe({}, characteristics=0x22)
    assert judge(content, name="helper.exe") == []
    ((rule, message),) = judge(content, "torch213-xpu20253-x86_64-windows")
    assert rule == "native-readable"
    assert message.endswith("it is not a dynamic library but a program")


def test_a_name_without_an_end_is_a_finding(judge: Judge) -> None:
    content = pe({"python3.dll": ["PyModule_Create2"]}).rstrip(b"\0")
    ((rule, _),) = judge(content.replace(b"python3.dll\0", b"p" * 12).ljust(4096, b"p"))
    assert rule == "native-readable"
