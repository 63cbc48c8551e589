"""Rules for Windows: a library loads into every Python, with the libraries that users have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

from kernels_core.check.facts.native import NativeModule, PeImage
from kernels_core.check.rule import Problem, Scope, Severity, rule
from kernels_core.check.tables import table

_STABLE_PYTHON = "python3.dll"
_PYTHON = re.compile(r"python[0-9]+t?(?:_d)?\.dll")


@rule(Scope.NATIVE, Severity.ERROR)
def pe_python(module: NativeModule) -> Iterator[Problem]:
    """On Windows, native code imports Python's functions from `python3.dll`.

    Why: every Python has that library. `python311.dll` exists in Python 3.11 only, and libraries
    that end in `_d` only in debug builds of Python.

    Fix: define `Py_LIMITED_API` as `0x03090000` for all sources, so that the headers request
    `python3.lib`, and remove other Python libraries from the linker's command line. This includes
    delay-loaded libraries.
    """
    image = _image(module)
    for library in image.libraries if image else ():
        if _PYTHON.fullmatch(library.lower()) and library.lower() != _STABLE_PYTHON:
            yield Problem(f"needs {library}; expected {_STABLE_PYTHON}", module.path)


@rule(Scope.NATIVE, Severity.ERROR)
def pe_python_by_number(module: NativeModule) -> Iterator[Problem]:
    """On Windows, native code imports Python's functions by name, not by ordinal.

    Why: the ordinals in `python3.dll` change from one Python to the next, so that the wrong
    function is called.

    Fix: link with the `python3.lib` that comes with Python.
    """
    image = _image(module)
    for library in image.by_number if image else ():
        if _PYTHON.fullmatch(library.lower()):
            yield Problem(f"imports functions of {library} by ordinal", module.path)


@rule(Scope.NATIVE, Severity.ERROR)
def pe_debug_runtime(module: NativeModule) -> Iterator[Problem]:
    """On Windows, native code uses the release version of the C and C++ runtimes.

    Why: the debug version comes with Visual Studio only, must not be redistributed, and its data
    structures differ from those of the version that torch uses.

    Fix: compile with `/MD`, not `/MDd`; with CMake, `--config Release`.
    """
    image = _image(module)
    debug = table("libraries")["windows"]["debug"]
    for library in image.libraries if image else ():
        if any(fnmatchcase(library.lower(), pattern) for pattern in debug):
            yield Problem(f"needs {library}, a debug runtime", module.path)


@rule(Scope.NATIVE, Severity.ERROR)
def pe_name(module: NativeModule) -> Iterator[Problem]:
    """On Windows, an extension module is named `NAME.pyd`.

    Why: Python finds no other name there: neither `NAME.so` nor, unlike on other systems,
    `NAME.abi3.pyd`.

    Fix: rename the file; a file built as `NAME.dll` can be renamed, too.
    """
    image = _image(module)
    name = module.path.rpartition("/")[2]
    initial = [each for each in image.exported if each.startswith("PyInit_")] if image else []
    if initial and (not name.endswith(".pyd") or name.endswith(".abi3.pyd")):
        expected = f"{initial[0].removeprefix('PyInit_')}.pyd"
        yield Problem(f"has a name that Python does not find; expected {expected}", module.path)


def _image(module: NativeModule) -> PeImage | None:
    return module.image if isinstance(module.image, PeImage) else None
