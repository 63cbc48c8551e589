"""Rules for Linux: a library loads on every distribution that manylinux_2_28 covers."""

from __future__ import annotations

from collections.abc import Iterator

from kernels_core.check.facts.native import ElfImage, NativeModule, VersionNeed
from kernels_core.check.rule import Problem, Scope, Severity, rule, some
from kernels_core.check.tables import table

# The version that the linker adds with packed relocations, so that old loaders reject them.
_PACKED = "GLIBC_ABI_DT_RELR"

_ORIGINS = ("$ORIGIN", "${ORIGIN}", "$ORIGIN/", "${ORIGIN}/")


@rule(Scope.NATIVE, Severity.ERROR)
def elf_manylinux(module: NativeModule) -> Iterator[Problem]:
    """On Linux, native code needs no newer symbol versions than those of manylinux_2_28.

    Why: these are GLIBC 2.28, GLIBCXX 3.4.24, CXXABI 1.3.11 and GCC 7.0.0. On a distribution
    without the required version, loading fails. Torch itself supports manylinux_2_28 and later.

    Fix: build in a manylinux_2_28 image, whose compilers link newer parts of the C++ library
    statically.
    """
    image, policy = _image(module), table("manylinux")
    if image is None or image.cpu not in policy["versions"]:
        return
    missing: dict[tuple[str, str], list[VersionNeed]] = {}
    for need in sorted(image.version_needs, key=lambda each: each.version):
        namespace = need.version.partition("_")[0]
        if (
            namespace in policy["namespaces"]
            and need.version != _PACKED
            and need.version not in policy["versions"][image.cpu]
        ):
            missing.setdefault((need.library, namespace), []).append(need)
    for (library, namespace), needs in missing.items():
        what = [f"{need.version} ({some(need.symbols, 3)})" for need in needs]
        yield Problem(
            f"needs {some(what)} of {library}, but the newest of "
            f"{policy['policy']} is "
            f"{_newest(namespace, policy['versions'][image.cpu])}",
            module.path,
            symbol=next(iter(needs[0].symbols), needs[0].version),
        )


@rule(Scope.NATIVE, Severity.ERROR)
def elf_new_symbols(module: NativeModule) -> Iterator[Problem]:
    """On Linux, native code uses no C library functions that are newer than manylinux_2_28.

    Why: a module that is linked without the C library has no symbol versions, but loading still
    fails where the function is missing.

    Fix: build in a manylinux_2_28 image, and link with the C library.
    """
    image, new = _image(module), table("manylinux")["new_symbols"]
    found = [name for name in image.unversioned if name in new] if image else []
    if found:
        names = [f"{name} (glibc {new[name]})" for name in found]
        yield Problem(
            f"uses {some(names)}; expected functions of glibc 2.28", module.path, symbol=found[0]
        )


@rule(Scope.NATIVE, Severity.ERROR)
def elf_packed_relocations(module: NativeModule) -> Iterator[Problem]:
    """On Linux, native code has no packed relative relocations.

    Why: glibc before 2.36 does not support them: it rejects the library, or leaves its pointers
    wrong.

    Fix: link without `-z pack-relative-relocs` (`--pack-dyn-relocs=relr` of lld).
    """
    image = _image(module)
    if image and (
        image.relative_relocations or any(need.version == _PACKED for need in image.version_needs)
    ):
        yield Problem("has packed relative relocations (DT_RELR)", module.path)


@rule(Scope.NATIVE, Severity.ERROR)
def elf_rpath(module: NativeModule) -> Iterator[Problem]:
    """On Linux, native code searches for libraries only in its own directory.

    Why: a path of the machine that built it does not exist elsewhere, or contains files that
    anybody may have put there; a kernel can only rely on the files next to the module.

    Fix: link without `-Wl,-rpath`, or with `-Wl,-rpath,'$ORIGIN'`; `patchelf --remove-rpath`
    removes it from a file.
    """
    image = _image(module)
    for path in dict.fromkeys(image.run_paths if image else ()):
        if path not in _ORIGINS:
            where = path or "the current directory"
            yield Problem(
                f"searches for libraries in {where}; expected $ORIGIN or no RPATH", module.path
            )


@rule(Scope.NATIVE, Severity.ERROR)
def elf_executable_stack(module: NativeModule) -> Iterator[Problem]:
    """On Linux, native code does not require an executable stack.

    Why: glibc 2.41 and later do not load such a library, nor do systems with SELinux.

    Fix: usually an assembly file lacks a section `.note.GNU-stack`: add it, or link with
    `-z noexecstack`.
    """
    image = _image(module)
    if image and image.executable_stack:
        yield Problem("requires an executable stack (PT_GNU_STACK)", module.path)


@rule(Scope.NATIVE, Severity.WARNING)
def elf_text_relocations(module: NativeModule) -> Iterator[Problem]:
    """On Linux, native code has no text relocations.

    Why: the loader has to write into the code. Systems with SELinux may forbid it, and processes
    cannot share the code.

    Fix: compile all sources with `-fPIC`, and link with `-z text` to find those that are not.
    """
    image = _image(module)
    if image and image.text_relocations:
        yield Problem("has text relocations (DT_TEXTREL)", module.path)


def _image(module: NativeModule) -> ElfImage | None:
    image = module.image
    return image if isinstance(image, ElfImage) and image.os == "linux" else None


def _newest(namespace: str, versions: list[str]) -> str:
    """The newest numbered version; the policy lists them in order."""
    numbered = (
        each for each in versions if each.startswith(f"{namespace}_") and each[-1].isdigit()
    )
    *_, newest = numbered
    return newest
