"""Rules: native code uses only what torch has, in the release that the variant names."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kernels_core.check.facts.native import NativeModule
from kernels_core.check.rule import Problem, Scope, Severity, rule, some
from kernels_core.check.tables import table
from kernels_core.variants.names import Framework, NativeVariant, Torch, TorchStableAbi

_NAMESPACES = ("at", "c10", "caffe2", "torch")

# C++ names as mangled by GCC and clang: the kind of symbol, qualifiers, then the outermost
# namespace after its length.
_ITANIUM = re.compile(
    r"_Z(?:T[A-Z]|G[A-Z])?N[rVK]*[RO]?"
    rf"(?:{'|'.join(f'{len(name)}{name}' for name in _NAMESPACES)})"
)
# The C++ classes and functions of torch's Python objects.
_OBJECTS = re.compile(r"(?:_Z[0-9]+)?THP[A-Z]\w*")

# std::string of the newer and of the older ABI of GCC's C++ library.
_NEW_STRING = re.compile(r"NSt7__cxx11|B5cxx11")
_OLD_STRING = "Ss"
# In mangled names: substitutions (S1_, T1_, Sa), literals (L...E), and the lengths of names.
_REPEATED = re.compile(r"[ST][0-9A-Z]*_|S[a-z]|L[a-z]n?[0-9]+E")
_LENGTH = re.compile(r"[0-9]{1,5}")


@rule(Scope.NATIVE, Severity.ERROR)
def torch_stable_abi(module: NativeModule) -> Iterator[Problem]:
    """In a `torch-stable-abi` variant, native code uses only the stable ABI of torch.

    Why: torch's C++ classes and functions change with every release, and such a variant is loaded
    by all later ones, where the symbols may be missing or mean something else.

    Fix: include only `torch/csrc/stable/` and `torch/headeronly/`, with `TORCH_STABLE_ONLY`
    defined; or name the variant for one release, such as `torch213-cxx11-...`.
    """
    if isinstance(_framework(module), TorchStableAbi):
        found = [name for name in module.required if _is_unstable(name)]
        if found:
            yield Problem(
                f"uses {some(found)} of torch's C++ API; expected its stable ABI only",
                module.path,
                symbol=found[0],
            )


@rule(Scope.NATIVE, Severity.ERROR)
def torch_stable_release(module: NativeModule) -> Iterator[Problem]:
    """In a `torch-stable-abi` variant, native code uses no function newer than the named release.

    Why: the variant is also chosen for that release of torch, where loading it fails.

    Fix: define `TORCH_TARGET_VERSION` as that release for all sources, or name the variant after
    the release that has all the functions.
    """
    framework = _framework(module)
    if not isinstance(framework, TorchStableAbi):
        return
    required = set(module.required)
    for release, functions in table("torch_stable_abi")["functions"].items():
        found = [name for name in functions if name in required]
        if found and _numbers(release) > framework.release:
            yield Problem(
                f"uses {some(found)}, added in torch {release}; expected functions of torch "
                f"{'.'.join(map(str, framework.release))}",
                module.path,
                symbol=found[0],
            )


@rule(Scope.NATIVE, Severity.ERROR)
def torch_cxx_abi(module: NativeModule) -> Iterator[Problem]:
    """Native code uses the C++ ABI in the variant's name, `cxx11` or `cxx98`.

    Why: torch with the other ABI lacks all functions that take a `std::string`.

    Fix: compile with `-D_GLIBCXX_USE_CXX11_ABI=1` for `cxx11` and `=0` for `cxx98`;
    `torch.compiled_with_cxx11_abi()` returns which one torch uses.
    """
    framework = _framework(module)
    if not isinstance(framework, Torch) or framework.cxx11_abi is None:
        return
    is_other = _takes_old_string if framework.cxx11_abi else _takes_new_string
    found = [name for name in module.required if _is_unstable(name) and is_other(name)]
    if found:
        other, expected = ("cxx98", "cxx11") if framework.cxx11_abi else ("cxx11", "cxx98")
        yield Problem(
            f"uses {some(found)} with the {other} ABI; expected {expected}",
            module.path,
            symbol=found[0],
        )


def _framework(module: NativeModule) -> Framework | None:
    variant = module.variant
    return variant.framework if isinstance(variant, NativeVariant) else None


def _is_unstable(name: str) -> bool:
    """Whether a symbol belongs to torch's C++ API."""
    if name.startswith("?"):  # as mangled by MSVC: the outermost namespace is last
        return name.partition("@@")[0].rpartition("@")[2] in _NAMESPACES
    return bool(_ITANIUM.match(name) or _OBJECTS.fullmatch(name))


def _takes_new_string(name: str) -> bool:
    return _NEW_STRING.search(name) is not None


def _takes_old_string(name: str) -> bool:
    """Whether the older std::string is among the types in a mangled name."""
    position = 0
    while position < len(name):
        if name.startswith(_OLD_STRING, position):
            return True
        if match := _REPEATED.match(name, position):
            position = match.end()
        elif match := _LENGTH.match(name, position):
            position = match.end() + int(match[0])
        else:
            position += 1
    return False


def _numbers(release: str) -> tuple[int, int]:
    major, minor = release.split(".")
    return int(major), int(minor)
