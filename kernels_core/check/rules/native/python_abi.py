"""Rules: what native code takes from Python is there in every Python since 3.9."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from kernels_core.check.extra import extra
from kernels_core.check.facts.native import NativeModule, is_libpython
from kernels_core.check.facts.python_walk import OLDEST
from kernels_core.check.rule import Problem, Scope, Severity, rule, some

# What Python's own functions and data are called. `PyInit_x` is what a module gives to Python.
_OF_PYTHON = re.compile(r"_?Py(?!Init_)[A-Z_]\w*")

# The names that a Python gives to modules for itself alone:
# x.cpython-311-x86_64-linux-gnu.so, x.cp311-win_amd64.pyd, x.pypy39-pp73-x86_64-linux-gnu.so.
_OF_ONE_PYTHON = re.compile(r"[^/]*\.(?:cpython-|cp|pypy)(?P<version>[0-9]+t?)[^/]*\.(?:so|pyd)")


@rule(Scope.NATIVE, Severity.ERROR)
def abi3_stable(module: NativeModule) -> Iterator[Problem]:
    """Of Python, native code uses the stable ABI only.

    Why: everything else changes or goes away from one Python to the next, so that the module loads,
    or computes right, only on the one that it was built for.

    Mend: define `Py_LIMITED_API` as `0x03090000` for all sources, and use none of what the headers
    then lack. pybind11 cannot be used, nor nanobind, whose stable ABI begins with Python 3.12.
    """
    unstable = [name for name in _from_python(module) if name not in _stable_since()]
    if unstable:
        yield Problem(
            f"uses {some(unstable)}, outside of Python's stable ABI",
            module.path,
            symbol=unstable[0],
        )


@rule(Scope.NATIVE, Severity.ERROR)
def abi3_oldest(module: NativeModule) -> Iterator[Problem]:
    """Of Python's stable ABI, native code uses what was in it in Python 3.9.

    Why: on an older Python than the one that brought a function, loading fails.

    Mend: define `Py_LIMITED_API` as `0x03090000`, no later version, for all sources.
    """
    since = _stable_since()
    newer = {name: since[name] for name in _from_python(module) if since.get(name, ()) > OLDEST}
    if newer:
        names = [f"{name} (Python {major}.{minor})" for name, (major, minor) in newer.items()]
        yield Problem(
            f"uses {some(names)}; expected what Python 3.9 has in its stable ABI",
            module.path,
            symbol=next(iter(newer)),
        )


@rule(Scope.NATIVE, Severity.ERROR)
def abi3_libpython(module: NativeModule) -> Iterator[Problem]:
    """Native code needs no library of Python itself.

    Why: many Pythons have none, since the program holds everything; where there is one, a second
    Python of another version would be loaded.

    Mend: do not link with `-lpython3.x`, nor with Python's framework: undefined symbols are found
    in the program that loads the module.
    """
    for library in module.image.libraries if module.image else ():
        if is_libpython(library):
            yield Problem(f"needs {library}; expected no library of Python", module.path)


@rule(Scope.NATIVE, Severity.ERROR)
def abi3_name(module: NativeModule) -> Iterator[Problem]:
    """A Python module of native code is named for every Python.

    Why: Python looks for modules by the ends of their names, and passes by those for other Pythons,
    even if what is inside would do.

    Mend: end the name with `.abi3.so`, on Windows with `.pyd`.
    """
    match = _OF_ONE_PYTHON.fullmatch(module.path.rpartition("/")[2])
    exported = module.image.exported if module.image else ()
    if match and module.is_first and any(name.startswith("PyInit_") for name in exported):
        yield Problem(f"is found by Python {_spelt(match['version'])} only", module.path)


def _from_python(module: NativeModule) -> list[str]:
    return sorted(name for name in module.required if _OF_PYTHON.fullmatch(name))


@functools.cache
def _stable_since() -> dict[str, tuple[int, int]]:
    """Each symbol of the stable ABI, and the version of Python since which it is in it."""
    known = extra("abi3info")
    return {
        each.symbol.name: (each.added.major, each.added.minor)
        for each in (*known.FUNCTIONS.values(), *known.DATAS.values())
    }


def _spelt(digits: str) -> str:
    return f"{digits[0]}.{digits[1:]}"
