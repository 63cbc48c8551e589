"""Rules: native code uses only the ABI that every Python since 3.9 has."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from kernels_core.check.extra import extra
from kernels_core.check.facts.native import NativeModule, is_libpython
from kernels_core.check.facts.python_walk import OLDEST
from kernels_core.check.rule import Problem, Scope, Severity, rule, some

# The names of Python's functions and data. `PyInit_x` is defined by the module itself.
_OF_PYTHON = re.compile(r"_?Py(?!Init_)[A-Z_]\w*")

# The names of modules for one version of Python:
# x.cpython-311-x86_64-linux-gnu.so, x.cp311-win_amd64.pyd, x.pypy39-pp73-x86_64-linux-gnu.so.
_OF_ONE_PYTHON = re.compile(r"[^/]*\.(?:cpython-|cp|pypy)(?P<version>[0-9]+t?)[^/]*\.(?:so|pyd)")


@rule(Scope.NATIVE, Severity.ERROR)
def abi3_stable(module: NativeModule) -> Iterator[Problem]:
    """Native code uses only the stable ABI of Python.

    Why: everything else changes with every version of Python, so the module loads or works
    correctly only on the version that it was built for.

    Fix: define `Py_LIMITED_API` as `0x03090000` for all sources, and avoid what the headers then
    hide. pybind11 cannot be used, nor can nanobind, whose stable ABI begins with Python 3.12.
    """
    unstable = [name for name in _from_python(module) if name not in _stable_since()]
    if unstable:
        yield Problem(
            f"uses {some(unstable)}, outside Python's stable ABI",
            module.path,
            symbol=unstable[0],
        )


@rule(Scope.NATIVE, Severity.ERROR)
def abi3_oldest(module: NativeModule) -> Iterator[Problem]:
    """Native code uses only what was in Python's stable ABI in Python 3.9.

    Why: loading fails on every Python that is older than one of the functions used.

    Fix: define `Py_LIMITED_API` as `0x03090000`, no later version, for all sources.
    """
    since = _stable_since()
    newer = {name: since[name] for name in _from_python(module) if since.get(name, ()) > OLDEST}
    if newer:
        names = [f"{name} (Python {major}.{minor})" for name, (major, minor) in newer.items()]
        yield Problem(
            f"uses {some(names)}; expected the stable ABI of Python 3.9",
            module.path,
            symbol=next(iter(newer)),
        )


@rule(Scope.NATIVE, Severity.ERROR)
def abi3_libpython(module: NativeModule) -> Iterator[Problem]:
    """Native code does not need libpython.

    Why: many Pythons have no libpython, since the executable contains everything; where it exists,
    a second Python of another version would be loaded.

    Fix: do not link with `-lpython3.x` or with Python's framework: undefined symbols are found in
    the program that loads the module.
    """
    for library in module.image.libraries if module.image else ():
        if is_libpython(library):
            yield Problem(f"needs {library}; expected not to need libpython", module.path)


@rule(Scope.NATIVE, Severity.ERROR)
def abi3_name(module: NativeModule) -> Iterator[Problem]:
    """The file name of an extension module is not that of a single version of Python.

    Why: Python finds modules by the suffixes of their names, and ignores those for other versions,
    even if they would load.

    Fix: use the suffix `.abi3.so`, on Windows `.pyd`.
    """
    match = _OF_ONE_PYTHON.fullmatch(module.path.rpartition("/")[2])
    exported = module.image.exported if module.image else ()
    if match and module.is_first and any(name.startswith("PyInit_") for name in exported):
        yield Problem(f"is found by Python {_dotted(match['version'])} only", module.path)


def _from_python(module: NativeModule) -> list[str]:
    return sorted(name for name in module.required if _OF_PYTHON.fullmatch(name))


@functools.cache
def _stable_since() -> dict[str, tuple[int, int]]:
    """Each symbol of the stable ABI, and the version of Python that added it."""
    known = extra("abi3info")
    return {
        each.symbol.name: (each.added.major, each.added.minor)
        for each in (*known.FUNCTIONS.values(), *known.DATAS.values())
    }


def _dotted(digits: str) -> str:
    return f"{digits[0]}.{digits[1:]}"
