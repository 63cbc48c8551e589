"""Rules for Windows: a library loads into every Python, with what its users have."""

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
    """On Windows, native code takes Python's functions from `python3.dll`.

    Why: that library is there in every Python. `python311.dll` is there in Python 3.11 only, and
    those that end in `_d` where Python itself was built for debugging.

    Mend: define `Py_LIMITED_API` as `0x03090000` for all sources, which makes the headers ask for
    `python3.lib`, and leave other libraries of Python out of the linker's command line. This holds
    for delayed loading, too.
    """
    image = _image(module)
    for library in image.libraries if image else ():
        if _PYTHON.fullmatch(library.lower()) and library.lower() != _STABLE_PYTHON:
            yield Problem(f"needs {library}; expected {_STABLE_PYTHON}", module.path)


@rule(Scope.NATIVE, Severity.ERROR)
def pe_python_by_number(module: NativeModule) -> Iterator[Problem]:
    """On Windows, native code takes Python's functions by their names.

    Why: their numbers in `python3.dll` differ from one Python to the next, so that another function
    is called.

    Mend: link with the `python3.lib` that comes with Python.
    """
    image = _image(module)
    for library in image.by_number if image else ():
        if _PYTHON.fullmatch(library.lower()):
            yield Problem(f"takes functions of {library} by number", module.path)


@rule(Scope.NATIVE, Severity.ERROR)
def pe_debug_runtime(module: NativeModule) -> Iterator[Problem]:
    """On Windows, native code uses the runtime of C and C++ as it is for users.

    Why: the one for debugging comes with Visual Studio only, may not be passed on, and its data do
    not fit those of torch's.

    Mend: compile with `/MD`, not `/MDd`; with CMake, `--config Release`.
    """
    image = _image(module)
    debug = table("libraries")["windows"]["debug"]
    for library in image.libraries if image else ():
        if any(fnmatchcase(library.lower(), pattern) for pattern in debug):
            yield Problem(f"needs {library}, a runtime for debugging", module.path)


@rule(Scope.NATIVE, Severity.ERROR)
def pe_name(module: NativeModule) -> Iterator[Problem]:
    """On Windows, a Python module of native code is named `NAME.pyd`.

    Why: Python looks for no other name there: not for `NAME.so`, nor, unlike elsewhere, for
    `NAME.abi3.pyd`.

    Mend: rename the file; what is built as `NAME.dll` may be renamed, too.
    """
    image = _image(module)
    name = module.path.rpartition("/")[2]
    initial = [each for each in image.exported if each.startswith("PyInit_")] if image else []
    if initial and (not name.endswith(".pyd") or name.endswith(".abi3.pyd")):
        expected = f"{initial[0].removeprefix('PyInit_')}.pyd"
        yield Problem(f"is not found by Python under its name; expected {expected}", module.path)


def _image(module: NativeModule) -> PeImage | None:
    return module.image if isinstance(module.image, PeImage) else None
