"""What native code uses of Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kernels_core.check import check

Link = Callable[..., Path]

MODULE = "void *PyInit_module(void) { USE; return PyModule_Create2(0, 1013); }"


def source(*names: str) -> str:
    return MODULE.replace("USE", "; ".join(f"{name}()" for name in names))


def test_the_stable_abi_of_python_39_passes(
    link: Link, form: Callable[[Path], bytes], rules: Callable[..., object]
) -> None:
    # Functions and data of Python 3.2 to 3.9; others' names that look like Python's.
    text = source("PyLong_AsLong", "Pythagoras", "_Py_Dealloc", "PyErr_Format", "PyInit_other")
    library = link(f"extern int PyType_Type; int *kind = &PyType_Type; {text}")
    assert rules(form(library)) == []


@pytest.mark.parametrize(
    "name",
    [
        "PyCell_New",
        "PyUnicode_New",
        "_PyObject_GetDictPtr",
        "_PyArg_ParseTuple_SizeTee",
        "PyUnstable_Code_New",
        "Py_OptimizeFlag",
    ],
)
def test_what_is_outside_of_the_stable_abi(
    name: str, link: Link, form: Callable[[Path], bytes], rules: Callable[..., object]
) -> None:
    assert rules(form(link(source("PyLong_AsLong", name)))) == [("abi3-stable", name)]


@pytest.mark.parametrize(
    "name", ["Py_NewRef", "PyUnicode_AsUTF8AndSize", "PyObject_GetBuffer", "PyType_GetName"]
)
def test_what_is_newer_than_python_39(
    name: str, link: Link, form: Callable[[Path], bytes], rules: Callable[..., object]
) -> None:
    assert rules(form(link(source("PyLong_AsLong", name)))) == [("abi3-oldest", name)]


def test_all_symbols_of_one_defect_are_in_one_finding(link: Link) -> None:
    library = link(source("Py_NewRef", "PyCell_New", "PyUnicode_New", "PyObject_CallNoArgs"))
    messages = [each.problem.message for each in check(library, select=["abi3"]).findings]
    assert messages == [
        "uses PyCell_New, PyUnicode_New, outside Python's stable ABI",
        "uses PyObject_CallNoArgs (Python 3.10), Py_NewRef (Python 3.10); expected the "
        "stable ABI of Python 3.9",
    ]


def test_what_may_be_missing_is_no_matter(link: Link, rules: Callable[..., object]) -> None:
    library = link(
        "extern void PyUnstable_Module_SetGIL(void) __attribute__((weak));"
        + source("if (PyUnstable_Module_SetGIL) PyUnstable_Module_SetGIL")
    )
    assert rules(library.read_bytes()) == []


@pytest.mark.parametrize("soname", ["libpython3.11.so.1.0", "libpython3.so", "libpython3.13t.so"])
def test_a_library_of_python(
    soname: str,
    link: Link,
    stub: Link,
    form: Callable[[Path], bytes],
    rules: Callable[..., object],
) -> None:
    library = link(source("PyLong_AsLong"), stub(soname, {"PyLong_AsLong": None}))
    assert rules(form(library)) == [("abi3-libpython", None)]


@pytest.mark.parametrize(
    "name",
    ["module.cpython-311-x86_64-linux-gnu.so", "module.cpython-313t-x86_64-linux-gnu.so"],
)
def test_a_name_for_one_python(name: str, link: Link, rules: Callable[..., object]) -> None:
    assert rules(link(source("PyLong_AsLong")).read_bytes(), name=name) == [("abi3-name", None)]


@pytest.mark.parametrize("name", ["module.so", "module.abi3.so", "libhelper.so"])
def test_a_name_for_all_pythons(name: str, link: Link, rules: Callable[..., object]) -> None:
    assert rules(link(source("PyLong_AsLong")).read_bytes(), name=name) == []
