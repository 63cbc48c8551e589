"""Rules: the code for accelerators in a build is for the architectures that its metadata claims."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kernels_core.check.facts.native import NativeBuild
from kernels_core.check.rule import Problem, Scope, Severity, rule

# An architecture that is a version: "8.0", "9.0a", "10.0+PTX". Others are names: "gfx942".
_VERSION = re.compile(r"([0-9]+)\.([0-9]+)[a-z]?(\+PTX)?")


@rule(Scope.NATIVE_BUILD, Severity.ERROR)
def device_archs_missing(build: NativeBuild) -> Iterator[Problem]:
    """A build has code for all architectures that `backend.archs` in its metadata claims.

    Why: the build is chosen for such a device, and its kernels then fail to start.

    Mend: compile for the architecture too, or take it out of `backend.archs`.
    """
    present = build.device_code
    for claimed in build.claimed if present else ():
        if not any(_runs_on(code, claimed) for code in present):
            yield Problem(
                f"claims {claimed} in backend.archs, and its native code is for "
                f"{', '.join(present)}",
                build.build.path,
                symbol="backend.archs",
            )


@rule(Scope.NATIVE_BUILD, Severity.WARNING)
def device_archs_unclaimed(build: NativeBuild) -> Iterator[Problem]:
    """A build's metadata claims all architectures that there is code for.

    Why: on a device of an architecture that is not claimed the build is never chosen, though it
    would run.

    Mend: add the architecture to `backend.archs`, or do not compile for it.
    """
    claimed = {_plain(each) for each in build.claimed}
    for code in build.device_code if claimed else ():
        if _plain(code) not in claimed:
            yield Problem(
                f"has code for {code}, which backend.archs does not claim: "
                f"{', '.join(build.claimed)}",
                build.build.path,
                symbol="backend.archs",
            )


def _runs_on(code: str, claimed: str) -> bool:
    """Whether code does what is claimed.

    Machine code runs on the same and on later minor versions; assembly (PTX), on all later ones.
    What is for one architecture or family only is not told apart.

    Example:
        >>> _runs_on("8.0", "8.6"), _runs_on("8.0", "9.0"), _runs_on("8.0+PTX", "9.0")
        (True, False, True)
        >>> _runs_on("9.0", "9.0+PTX"), _runs_on("gfx942", "gfx90a")
        (False, False)
    """
    has, wants = _VERSION.fullmatch(code), _VERSION.fullmatch(claimed)
    if has is None or wants is None:
        return _plain(code) == _plain(claimed)
    (major, minor), (wanted_major, wanted_minor) = _number(has), _number(wants)
    if has[3]:
        return (major, minor) <= (wanted_major, wanted_minor)
    return not wants[3] and major == wanted_major and minor <= wanted_minor


def _plain(arch: str) -> str:
    """The architecture alone, without what says how code is for it."""
    match = _VERSION.fullmatch(arch)
    return f"{match[1]}.{match[2]}" if match else arch.partition(":")[0].lower()


def _number(match: re.Match[str]) -> tuple[int, int]:
    return int(match[1]), int(match[2])
