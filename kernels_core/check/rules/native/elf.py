"""Rules for Linux: a library loads wherever manylinux_2_28 promises, and as other systems allow."""

from __future__ import annotations

from collections.abc import Iterator

from kernels_core.check.facts.native import ElfImage, NativeModule, VersionNeed
from kernels_core.check.rule import Problem, Scope, Severity, rule, some
from kernels_core.check.tables import table

# What the linker notes beside packed relocations, so that an old loader refuses them.
_PACKED = "GLIBC_ABI_DT_RELR"

_ORIGINS = ("$ORIGIN", "${ORIGIN}", "$ORIGIN/", "${ORIGIN}/")


@rule(Scope.NATIVE, Severity.ERROR)
def elf_manylinux(module: NativeModule) -> Iterator[Problem]:
    """On Linux, native code needs no versions of the runtime beyond those of manylinux_2_28.

    Why: these are GLIBC 2.28, GLIBCXX 3.4.24, CXXABI 1.3.11 and GCC 7.0.0. On a distribution that
    lacks the version that is needed, loading fails. Torch itself runs on all since manylinux_2_28.

    Mend: build in an image of manylinux_2_28, whose compilers link newer parts of the C++ library
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
            f"needs {some(what)} of {library}, which {policy['policy']} lacks; its newest is "
            f"{_newest(namespace, policy['versions'][image.cpu])}",
            module.path,
            symbol=next(iter(needs[0].symbols), needs[0].version),
        )


@rule(Scope.NATIVE, Severity.ERROR)
def elf_new_symbols(module: NativeModule) -> Iterator[Problem]:
    """On Linux, native code uses no functions of the C library that manylinux_2_28 lacks.

    Why: linked without the C library, a module notes no versions, and loading still fails where
    the function is missing.

    Mend: build in an image of manylinux_2_28, and link with the C library.
    """
    image, new = _image(module), table("manylinux")["new_symbols"]
    found = [name for name in image.unversioned if name in new] if image else []
    if found:
        names = [f"{name} (glibc {new[name]})" for name in found]
        yield Problem(
            f"uses {some(names)}; expected what glibc 2.28 has", module.path, symbol=found[0]
        )


@rule(Scope.NATIVE, Severity.ERROR)
def elf_packed_relocations(module: NativeModule) -> Iterator[Problem]:
    """On Linux, native code has no packed relative relocations.

    Why: loaders before glibc 2.36 do not know them; they refuse the library, or leave its pointers
    wrong.

    Mend: link without `-z pack-relative-relocs` (`--pack-dyn-relocs=relr` of lld).
    """
    image = _image(module)
    if image and (
        image.relative_relocations or any(need.version == _PACKED for need in image.version_needs)
    ):
        yield Problem("has packed relative relocations (DT_RELR)", module.path)


@rule(Scope.NATIVE, Severity.ERROR)
def elf_rpath(module: NativeModule) -> Iterator[Problem]:
    """On Linux, native code looks for libraries nowhere but in its own directory.

    Why: a path of the machine that built it does not exist elsewhere, or holds what anybody put
    there; what lies beside the module is all that a kernel brings.

    Mend: link without `-Wl,-rpath`, or with `-Wl,-rpath,'$ORIGIN'`; `patchelf --remove-rpath`
    removes it from a file.
    """
    image = _image(module)
    for path in dict.fromkeys(image.run_paths if image else ()):
        if path not in _ORIGINS:
            where = f"in {path}" if path else "in the current directory"
            yield Problem(f"looks for libraries {where}; expected $ORIGIN or nothing", module.path)


@rule(Scope.NATIVE, Severity.ERROR)
def elf_executable_stack(module: NativeModule) -> Iterator[Problem]:
    """On Linux, native code does not want to run code on the stack.

    Why: since glibc 2.41 the loader refuses such a library, and systems with SELinux did before.

    Mend: mostly it comes from assembly without a section `.note.GNU-stack`: add that, or link with
    `-z noexecstack`.
    """
    image = _image(module)
    if image and image.executable_stack:
        yield Problem("wants an executable stack (PT_GNU_STACK)", module.path)


@rule(Scope.NATIVE, Severity.WARNING)
def elf_text_relocations(module: NativeModule) -> Iterator[Problem]:
    """On Linux, the loader does not have to write into the code.

    Why: systems with SELinux may forbid it, and no two processes share the code.

    Mend: compile all sources with `-fPIC`, and link with `-z text` to see what does not.
    """
    image = _image(module)
    if image and image.text_relocations:
        yield Problem("has relocations in its code (DT_TEXTREL)", module.path)


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
