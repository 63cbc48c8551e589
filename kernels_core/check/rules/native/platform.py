"""Rules: a file of native code can be read, and is for the machines that the variant names."""

from __future__ import annotations

from collections.abc import Iterator

from kernels_core.check.facts.native import NativeModule
from kernels_core.check.rule import Problem, Scope, Severity, rule
from kernels_core.variants.names import NativeVariant, NoarchVariant


@rule(Scope.NATIVE, Severity.ERROR)
def native_readable(module: NativeModule) -> Iterator[Problem]:
    """Native code is a whole library in the format of Linux, macOS or Windows.

    Why: no loader takes a file that is cut off or damaged, and nothing else can be said of it.

    Mend: build or upload the file again. A pointer of Git LFS in its place means that the file
    itself was never fetched.
    """
    if module.unreadable:
        yield Problem(f"cannot be read as native code: {module.unreadable}", module.path)


@rule(Scope.NATIVE, Severity.ERROR)
def native_noarch(module: NativeModule) -> Iterator[Problem]:
    """A build whose name says no CPU and no system holds no native code.

    Why: such a build is loaded on every machine, and native code runs on one kind of them.

    Mend: put the build into variants that name CPU and system, such as
    `torch213-cxx11-cpu-x86_64-linux`, or leave the native code out.
    """
    if module.build and isinstance(module.build.variant, NoarchVariant) and module.is_first:
        what = f"native code for {_platform(module)}" if module.image else "native code"
        yield Problem(f"is {what}, and {module.build.name} is loaded on all machines", module.path)


@rule(Scope.NATIVE, Severity.ERROR)
def native_platform(module: NativeModule) -> Iterator[Problem]:
    """Native code is for the CPU and the system that the variant's name says.

    Why: the loader of any other machine refuses it, and users of that machine are offered it.

    Mend: build for the right target, or move the build to the variant that is named for it.
    """
    variant = module.variant
    if not isinstance(variant, NativeVariant) or module.image is None or not module.is_first:
        return
    if (variant.cpu, variant.os) not in {(cpu, module.image.os) for cpu in module.cpus}:
        expected = f"{variant.cpu}-{variant.os}"
        yield Problem(f"is for {_platform(module)}; expected {expected}", module.path)


def _platform(module: NativeModule) -> str:
    system = module.image.os if module.image else ""
    return " and ".join(f"{cpu}-{system}" for cpu in module.cpus)
