"""Rules for macOS: a library loads on the releases of macOS that kernels support."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kernels_core.check.facts.native import MachOImage, NativeModule
from kernels_core.check.rule import Problem, Scope, Severity, rule
from kernels_core.check.tables import table
from kernels_core.variants.names import NativeVariant

_MACOS = "macOS"
_OWN_DIRECTORY = ("@loader_path", "@loader_path/", "@loader_path/.")

# Where macOS itself keeps libraries: the same on every machine.
_OF_THE_SYSTEM = ("/usr/lib/", "/System/Library/")


@rule(Scope.NATIVE, Severity.ERROR)
def macho_platform(module: NativeModule) -> Iterator[Problem]:
    """On macOS, native code names macOS as its platform, and the oldest release that it supports.

    Why: the loader rejects code for other platforms, such as iOS, and treats code without a
    platform as very old code, by other rules.

    Fix: compile and link with `-target arm64-apple-macos15.0`, or set `MACOSX_DEPLOYMENT_TARGET`
    to `15.0`; `vtool -show-build` prints what a file says.
    """
    image = _image(module)
    if image and _MACOS not in image.platforms:
        found = (
            f"is for {' and '.join(image.platforms)}" if image.platforms else "names no platform"
        )
        yield Problem(f"{found}; expected macOS with its oldest release", module.path)


@rule(Scope.NATIVE, Severity.ERROR)
def macho_deployment_target(module: NativeModule) -> Iterator[Problem]:
    """On macOS, native code loads on macOS 15.0; builds for Metal may need up to macOS 26.0.

    Why: on an older release than its deployment target, a library may fail to load, or crash when
    it first calls a function that the release does not have. The metadata of builds for Metal,
    which newer repositories build on macOS 26, can name the release, so that the loader skips them
    on an older one; other builds cannot.

    Fix: set `MACOSX_DEPLOYMENT_TARGET` to `15.0` for all compilers and the linker.
    """
    image = _image(module)
    target = image.platforms.get(_MACOS) if image else None
    newest = _newest(module)
    if target and target > tuple(map(int, newest.split("."))):
        found = ".".join(map(str, target))
        yield Problem(f"needs macOS {found}; expected {newest} or older", module.path)


@rule(Scope.NATIVE, Severity.ERROR)
def macho_rpath(module: NativeModule) -> Iterator[Problem]:
    """On macOS, native code searches for libraries only in its own directory.

    Why: a path of the machine that built it does not exist elsewhere, or contains files that
    anybody may have put there; torch's libraries are found without one, since torch has loaded
    them before.

    Fix: link without `-Wl,-rpath`, or with `-Wl,-rpath,@loader_path`; `install_name_tool
    -delete_rpath` removes it from a file, which must then be signed again.
    """
    image = _image(module)
    for path in dict.fromkeys(image.run_paths if image else ()):
        if path not in _OWN_DIRECTORY:
            yield Problem(
                f"searches for libraries in {path!r}; expected @loader_path or no rpath",
                module.path,
            )


@rule(Scope.NATIVE, Severity.ERROR)
def macho_signature(module: NativeModule) -> Iterator[Problem]:
    """On macOS, native code for Apple silicon is signed.

    Why: macOS runs no unsigned code there. An ad-hoc signature, which linkers add by default, is
    enough.

    Fix: run `codesign --force --sign - FILE` after the last change: on other systems, `strip` and
    `install_name_tool` remove the signature, or leave one that is no longer valid.
    """
    image = _image(module)
    if image and image.cpu == "aarch64" and not image.signed:
        yield Problem("has no code signature (LC_CODE_SIGNATURE)", module.path)


@rule(Scope.NATIVE, Severity.WARNING)
def macho_install_name(module: NativeModule) -> Iterator[Problem]:
    """On macOS, the install name of a library is not a path of the machine that built it.

    Why: libraries that are linked against it search for it at that path; it also discloses how the
    machine is set up.

    Fix: link with `-install_name @rpath/NAME`, or with `-bundle`: modules that Python loads need no
    install name.
    """
    image = _image(module)
    name = image.install_name if image else ""
    if name.startswith("/") and not name.startswith(_OF_THE_SYSTEM):
        yield Problem(f"has the install name {name}; expected @rpath/... or none", module.path)


def _image(module: NativeModule) -> MachOImage | None:
    return module.image if isinstance(module.image, MachOImage) else None


def _newest(module: NativeModule) -> str:
    """The newest deployment target that a file may have."""
    policy = table("macos")
    variant = module.variant
    for backend in policy["backends"]:
        # A file that is checked by itself may be for any backend.
        if variant is None or (
            isinstance(variant, NativeVariant) and re.fullmatch(backend["tag"], str(variant.tag))
        ):
            return str(backend["newest"])
    return str(policy["newest"])
