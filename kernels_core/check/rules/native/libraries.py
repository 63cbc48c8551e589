"""Rule: native code needs only dynamic libraries that every user has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from kernels_core.check.facts.native import Image, NativeModule, is_libpython
from kernels_core.check.rule import Problem, Scope, Severity, rule
from kernels_core.check.tables import table
from kernels_core.variants.names import NativeVariant, TvmFfi, Variant

# The rules about Python's ABI judge which of Python's libraries a module may need.
_PYTHON_DLL = re.compile(r"python[0-9]*t?(_d)?\.dll")


@rule(Scope.NATIVE, Severity.ERROR)
def native_libraries(module: NativeModule) -> Iterator[Problem]:
    """Native code needs only torch's libraries, those that torch needs, and the C and C++ runtimes.

    Why: torch has loaded these before it loads a kernel. Any other library is missing on some
    machines, or installed in another version.

    Fix: link the library statically, or avoid it. `readelf -d`, `otool -L` and
    `dumpbin /dependents` list the libraries that a file needs.
    """
    image = module.image
    if image is None or image.os not in table("libraries"):
        return
    variant = module.variant
    allowed, known = _allowed(image, variant)
    section = table("libraries")[image.os]
    for library in dict.fromkeys(image.libraries):
        name = library.lower() if image.os == "windows" else library
        if is_libpython(name) or _PYTHON_DLL.fullmatch(name) or _matches(name, allowed):
            continue
        if _matches(name, section.get("debug", ())):
            continue  # pe-debug-runtime reports these
        if known or _matches(name, section["foreign"]):
            yield Problem(f"needs {library}, {_expected(module)}", module.path)


def _allowed(image: Image, variant: Variant | None) -> tuple[list[str], bool]:
    """Patterns of allowed libraries, and whether they are complete, since the backend is known."""
    section: dict[str, Any] = table("libraries")[image.os]
    backends, frameworks = section["backends"], list(section["frameworks"].values())
    if isinstance(variant, NativeVariant):
        backends = [each for each in backends if re.fullmatch(each["tag"], str(variant.tag))]
        if not isinstance(variant.framework, TvmFfi):
            frameworks = []
    patterns = [*section["common"], *(name for each in frameworks for name in each)]
    patterns += [name for each in backends for name in each["libraries"]]
    return patterns, bool(backends)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _expected(module: NativeModule) -> str:
    variant = module.variant
    what = f"of {variant.tag} " if isinstance(variant, NativeVariant) else ""
    return f"which is neither a library {what}that comes with torch, nor the runtime of C or C++"
