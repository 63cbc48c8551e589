"""Rules: native code is readable, and is for the machines that the variant names."""

from __future__ import annotations

from collections.abc import Iterator

from kernels_core.check.facts.native import NativeModule
from kernels_core.check.rule import Problem, Scope, Severity, rule
from kernels_core.variants.names import NativeVariant, NoarchVariant


@rule(Scope.NATIVE, Severity.ERROR)
def native_readable(module: NativeModule) -> Iterator[Problem]:
    """A file of native code is a complete library for Linux, macOS or Windows.

    Why: a truncated or damaged file cannot be loaded, nor checked any further.

    Fix: build or upload the file again. A Git LFS pointer in its place means that the file itself
    was never downloaded.
    """
    if module.unreadable:
        yield Problem(f"cannot be read as native code: {module.unreadable}", module.path)


@rule(Scope.NATIVE, Severity.ERROR)
def native_noarch(module: NativeModule) -> Iterator[Problem]:
    """A build whose name has no CPU and no system contains no native code.

    Why: such a build is loaded on every machine, but native code runs on one kind of machine only.

    Fix: put the build into variants that name the CPU and the system, such as
    `torch213-cxx11-cpu-x86_64-linux`, or remove the native code.
    """
    if module.build and isinstance(module.build.variant, NoarchVariant) and module.is_first:
        what = f"native code for {_platform(module)}" if module.image else "native code"
        yield Problem(f"is {what}, but {module.build.name} is loaded on all machines", module.path)


@rule(Scope.NATIVE, Severity.ERROR)
def native_platform(module: NativeModule) -> Iterator[Problem]:
    """Native code is for the CPU and the system in the variant's name.

    Why: the build is chosen on machines of that kind, which cannot load code for any other.

    Fix: build for the right target, or move the build to the variant with the right name.
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
