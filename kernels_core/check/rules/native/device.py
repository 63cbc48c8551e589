"""Rules: a build has code for the accelerator architectures that its metadata lists."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kernels_core.check.facts.native import NativeBuild
from kernels_core.check.rule import Problem, Scope, Severity, rule

# An architecture that is a version: "8.0", "9.0a", "10.0+PTX". Others are names: "gfx942".
_VERSION = re.compile(r"([0-9]+)\.([0-9]+)[a-z]?(\+PTX)?")


@rule(Scope.NATIVE_BUILD, Severity.ERROR)
def device_archs_missing(build: NativeBuild) -> Iterator[Problem]:
    """A build has code for all architectures in `backend.archs` of its metadata.

    Why: the build is chosen for such a device, and then its kernels fail to launch.

    Fix: compile for the architecture too, or remove it from `backend.archs`.
    """
    present = build.device_code
    for claimed in build.claimed if present else ():
        if not any(_runs_on(code, claimed) for code in present):
            yield Problem(
                f"lists {claimed} in backend.archs, but its native code is for "
                f"{', '.join(present)}",
                build.build.path,
                symbol="backend.archs",
            )


@rule(Scope.NATIVE_BUILD, Severity.WARNING)
def device_archs_unclaimed(build: NativeBuild) -> Iterator[Problem]:
    """`backend.archs` in a build's metadata lists all architectures that it has code for.

    Why: the build is never chosen for a device of an architecture that is not listed, although it
    would run.

    Fix: add the architecture to `backend.archs`, or do not compile for it.
    """
    claimed = {_plain(each) for each in build.claimed}
    for code in build.device_code if claimed else ():
        if _plain(code) not in claimed:
            yield Problem(
                f"has code for {code}, which backend.archs does not list: "
                f"{', '.join(build.claimed)}",
                build.build.path,
                symbol="backend.archs",
            )


def _runs_on(code: str, claimed: str) -> bool:
    """Whether code for one architecture runs on another.

    Machine code runs on the same and on later minor versions; assembly (PTX), on all later ones.
    Code for only one architecture or family is not distinguished.
    """
    ours, theirs = _VERSION.fullmatch(code), _VERSION.fullmatch(claimed)
    if ours is None or theirs is None:
        return _plain(code) == _plain(claimed)
    has, needs = _number(ours), _number(theirs)
    if ours[3]:
        return has <= needs
    return not theirs[3] and has[0] == needs[0] and has[1] <= needs[1]


def _plain(arch: str) -> str:
    match = _VERSION.fullmatch(arch)
    return f"{match[1]}.{match[2]}" if match else arch.partition(":")[0].lower()


def _number(match: re.Match[str]) -> tuple[int, int]:
    return int(match[1]), int(match[2])
