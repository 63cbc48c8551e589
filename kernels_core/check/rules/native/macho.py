"""Rules for macOS: a library loads on the releases of macOS that kernels are for."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kernels_core.check.facts.native import MachOImage, NativeModule
from kernels_core.check.rule import Problem, Scope, Severity, rule
from kernels_core.check.tables import table
from kernels_core.variants.names import NativeVariant

_MACOS = "macOS"
_OWN_DIRECTORY = ("@loader_path", "@loader_path/", "@loader_path/.")

# Where macOS itself keeps libraries; whoever names one of these names no other machine's path.
_OF_THE_SYSTEM = ("/usr/lib/", "/System/Library/")


@rule(Scope.NATIVE, Severity.ERROR)
def macho_platform(module: NativeModule) -> Iterator[Problem]:
    """On macOS, native code says that it is for macOS, and since which release.

    Why: the loader refuses what is made for iPhones, and what says nothing it takes for very old
    code, with rules of its own.

    Mend: compile and link with `-target arm64-apple-macos15.0`, or set `MACOSX_DEPLOYMENT_TARGET`
    to `15.0`; `vtool -show-build` prints what a file says.
    """
    image = _image(module)
    if image and _MACOS not in image.platforms:
        found = f"is for {' and '.join(image.platforms)}" if image.platforms else "says no system"
        yield Problem(f"{found}; expected macOS with its oldest release", module.path)


@rule(Scope.NATIVE, Severity.ERROR)
def macho_deployment_target(module: NativeModule) -> Iterator[Problem]:
    """On macOS, native code loads on macOS 15.0; builds for Metal may need up to macOS 26.0.

    Why: on an older release than its deployment target, a library may fail to load, or crash when
    it first calls what that release lacks. Of builds for Metal, which newer repositories make on
    macOS 26, the metadata can say the release, so that the loader passes them by on an older one;
    for any other build nothing does.

    Mend: set `MACOSX_DEPLOYMENT_TARGET` to `15.0` for all compilers and the linker.
    """
    image = _image(module)
    target = image.platforms.get(_MACOS) if image else None
    newest = _newest(module)
    if target and target > tuple(map(int, newest.split("."))):
        found = ".".join(map(str, target))
        yield Problem(f"needs macOS {found}; expected {newest} or older", module.path)


@rule(Scope.NATIVE, Severity.ERROR)
def macho_rpath(module: NativeModule) -> Iterator[Problem]:
    """On macOS, native code looks for libraries nowhere but in its own directory.

    Why: a path of the machine that built it does not exist elsewhere, or holds what anybody put
    there; torch's libraries are found without one, since torch has loaded them before.

    Mend: link without `-Wl,-rpath`, or with `-Wl,-rpath,@loader_path`; `install_name_tool
    -delete_rpath` removes it from a file, which is to be signed again then.
    """
    image = _image(module)
    for path in dict.fromkeys(image.run_paths if image else ()):
        if path not in _OWN_DIRECTORY:
            yield Problem(
                f"looks for libraries in {path}; expected @loader_path or nothing", module.path
            )


@rule(Scope.NATIVE, Severity.ERROR)
def macho_signature(module: NativeModule) -> Iterator[Problem]:
    """On macOS, native code for Apple's own processors is signed.

    Why: there the system runs no unsigned code. A signature without an identity, which linkers make
    by themselves, is enough.

    Mend: `codesign --force --sign - FILE`, after the last change: `strip` and `install_name_tool`
    of other systems remove the signature, or leave one that no longer fits.
    """
    image = _image(module)
    if image and image.cpu == "aarch64" and not image.signed:
        yield Problem("has no code signature (LC_CODE_SIGNATURE)", module.path)


@rule(Scope.NATIVE, Severity.WARNING)
def macho_install_name(module: NativeModule) -> Iterator[Problem]:
    """On macOS, a library's own name is no path of the machine that built it.

    Why: whatever is linked against it looks for it under that path; for the rest, it tells
    strangers how somebody's machine is set up.

    Mend: link with `-install_name @rpath/NAME`, or with `-bundle`, since what Python loads needs
    no such name.
    """
    image = _image(module)
    name = image.install_name if image else ""
    if name.startswith("/") and not name.startswith(_OF_THE_SYSTEM):
        yield Problem(f"calls itself {name}; expected @rpath/... or no name", module.path)


def _image(module: NativeModule) -> MachOImage | None:
    return module.image if isinstance(module.image, MachOImage) else None


def _newest(module: NativeModule) -> str:
    """The newest deployment target that a file may have."""
    policy = table("macos")
    variant = module.variant
    for backend in policy["backends"]:
        # Of a file by itself nobody knows which backend it is for.
        if variant is None or (
            isinstance(variant, NativeVariant) and re.fullmatch(backend["tag"], str(variant.tag))
        ):
            return str(backend["newest"])
    return str(policy["newest"])
