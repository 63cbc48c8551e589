"""Rules: namespaces in `torch.ops`, which are unique in a process."""

from __future__ import annotations

import re
from collections.abc import Iterator

from packaging.requirements import Requirement

from kernels_core.check.facts.constants import UNKNOWN
from kernels_core.check.facts.operators import Operators, PythonPackage, unique_part
from kernels_core.check.facts.repository import Build
from kernels_core.check.rule import Problem, Scope, Severity, rule
from kernels_core.variants.names import (
    UNIVERSAL,
    Framework,
    NativeVariant,
    NoarchVariant,
    Torch,
    TorchStableAbi,
    TvmFfi,
)

# Backends that a process may use together with any other one.
_BESIDE_OTHERS = ("cpu", UNIVERSAL)

_VERSION = re.compile(r"v[0-9]+|[0-9]{1,3}")


@rule(Scope.PACKAGE, Severity.ERROR)
def namespace_declared(package: PythonPackage) -> Iterator[Problem]:
    """Operators are registered and used in the namespace that `metadata.json` declares as `id`.

    Why: loaders use the `id` to find out whether a build's operators are registered already; torch
    aborts the process when native code registers one twice. Operators of other packages may be
    missing, and registering in one of torch's namespaces changes it for everybody.

    Fix: rebuild the kernel, so that the `id` and the code agree; do not use operators of other
    packages.
    """
    metadata = package.build.metadata
    if metadata is None or metadata.id is None:
        return
    dependencies = {_module_name(text) for text in metadata.python_depends}
    seen = set()
    for use in package.operators.uses:
        namespace = use.namespace
        if use.is_for(metadata.id) or namespace in dependencies or namespace in seen:
            continue
        seen.add(namespace)
        what = "registers operators in" if use.registers else "uses"
        message = f"{what} torch.ops.{_shown(namespace)}, but 'id' is {metadata.id!r}"
        yield Problem(message, use.path, use.line, _shown(namespace))


@rule(Scope.PACKAGE, Severity.ERROR)
def namespace_unique(package: PythonPackage) -> Iterator[Problem]:
    """The namespace of a build's operators has a part that is unique to the build.

    Why: several versions of a kernel may be loaded into one process. With the same namespace the
    second one fails, silently uses the operators of the first, or aborts the process. A version or
    a tag is not enough: versions are not bumped with every commit, and tags can move.

    Fix: append the short hash of the source commit or something random, such as
    `_activation_605f22e`.
    """
    operators = package.operators
    for namespace in operators.namespaces:
        if not unique_part(namespace) and UNKNOWN not in namespace:
            message = f"torch.ops.{namespace} does not end with a hash or a random part"
            yield _at(operators, namespace, message)


@rule(Scope.PACKAGE, Severity.WARNING)
def namespace_version(package: PythonPackage) -> Iterator[Problem]:
    """The namespace of a build's operators contains no version or tag.

    Why: versions are not bumped with every commit, and tags can move, so that the name would be
    misleading.

    Fix: leave it out; the hash of the commit identifies the build.
    """
    operators = package.operators
    metadata = package.build.metadata
    named = metadata.name if metadata else None
    usual = set(re.split(r"[-_]", named or package.build.directory.parent.parent.name))
    for namespace in operators.namespaces:
        unique = unique_part(namespace)
        for part in namespace.split("_") if unique else ():
            if _VERSION.fullmatch(part) and part != unique and part not in usual:
                message = (
                    f"torch.ops.{_shown(namespace)} contains {part!r}, which looks like a version"
                )
                yield _at(operators, namespace, message)


@rule(Scope.PACKAGES, Severity.WARNING)
def namespace_shared(builds: tuple[Operators, ...]) -> Iterator[Problem]:
    """Builds that one process may load together have different namespaces.

    Why: a model may be partly on the CPU and partly on another device. Then the builds for both
    backends are loaded into one process, where each operator can be registered only once.

    Fix: include the backend's name in the namespace, such as `_activation_cpu_605f22e`.
    """
    reported: set[frozenset[str]] = set()
    for one in builds:
        for other in builds if _backend(one.build) in _BESIDE_OTHERS else ():
            shared = set(one.namespaces) & set(other.namespaces)
            pair = frozenset({one.build.name, other.build.name})
            if shared and pair not in reported and _meet(one.build, other.build):
                reported.add(pair)
                namespace = min(shared)
                message = f"build {other.build.name} also uses torch.ops.{_shown(namespace)}"
                yield _at(one, namespace, message)
                break


def _at(operators: Operators, namespace: str, message: str) -> Problem:
    """Where a namespace is declared, or else used first."""
    build = operators.build
    if build.metadata and build.metadata.id == namespace:
        return Problem(message, f"{build.path}/metadata.json", symbol="id")
    use = next(use for use in operators.uses if use.namespace == namespace)
    return Problem(message, use.path, use.line, _shown(namespace))


def _shown(namespace: str) -> str:
    return namespace.replace(UNKNOWN, "...")


def _module_name(requirement: str) -> str:
    return Requirement(requirement).name.replace("-", "_").lower()


def _backend(build: Build) -> str:
    if isinstance(build.variant, NativeVariant):
        return str(build.variant.tag)
    return build.variant.backend if isinstance(build.variant, NoarchVariant) else ""


def _meet(one: Build, other: Build) -> bool:
    """Whether a process may load both builds, each for another backend."""
    if other.variant is None or _backend(one) == _backend(other):
        return False
    if not isinstance(one.variant, NativeVariant) or not isinstance(other.variant, NativeVariant):
        return True
    if (one.variant.cpu, one.variant.os) != (other.variant.cpu, other.variant.os):
        return False
    return _share_torch(one.variant.framework, other.variant.framework)


def _share_torch(one: Framework, other: Framework) -> bool:
    """Whether builds for both frameworks may be loaded with the same torch."""
    if isinstance(one, TvmFfi) or isinstance(other, TvmFfi):
        return type(one) is type(other)
    if isinstance(one, Torch) and isinstance(other, Torch):
        return one.release == other.release
    if isinstance(one, TorchStableAbi) and isinstance(other, Torch):
        one, other = other, one
    # A stable ABI is that of a release and of all later ones.
    return isinstance(one, TorchStableAbi) or one.release >= other.release
