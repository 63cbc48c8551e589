"""`kernels-core lock --check`: whether a lock still belongs to its project."""

from __future__ import annotations

import attrs
import pytest

from kernels_core.locks.check import check_lock
from kernels_core.locks.lock import Lock, LockedKernel
from kernels_core.locks.project import Wanted
from kernels_core.repository.metadata import KernelDependency

BASE = KernelDependency("org/base", version=1)
DEEP = KernelDependency("org/deep", version=1)


def own(
    repo_id: str = "org/name",
    version: int | None = None,
    revision: str | None = None,
    depends: tuple[KernelDependency, ...] = (),
) -> LockedKernel:
    return LockedKernel(KernelDependency(repo_id, version, revision), "a" * 40, {}, True, depends)


def needed(at: KernelDependency, *depends: KernelDependency) -> LockedKernel:
    return LockedKernel(at, "b" * 40, {}, False, depends)


WANTED = [Wanted("org/name", 1), Wanted("org/tagged", ">=0.1")]
KERNELS = (
    own(version=1, depends=(BASE,)),
    own("org/tagged", revision="v0.2.0"),
    needed(BASE, DEEP),
    needed(DEEP),
)


def test_a_lock_that_was_written_for_the_project_has_no_problem() -> None:
    assert check_lock(WANTED, Lock(KERNELS)) == ()
    assert check_lock([], Lock(())) == ()


@pytest.mark.parametrize(
    ("wanted", "kernels", "problem"),
    [
        ([*WANTED, Wanted("org/new", 1)], KERNELS, "org/new (version 1) is not locked."),
        (WANTED[:1], KERNELS, "org/tagged (at v0.2.0) is locked, and the project does not ask"),
        (
            [Wanted("org/name", 2), WANTED[1]],
            KERNELS,
            "org/name (version 2) is asked for, and org/name (version 1) is locked.",
        ),
        (
            [WANTED[0], Wanted("org/tagged", "<0.2")],
            KERNELS,
            "org/tagged (version <0.2) is asked for, and org/tagged (at v0.2.0) is locked.",
        ),
        (
            WANTED,
            KERNELS[:3],
            "org/deep (version 1), which org/base (version 1) needs, is not locked.",
        ),
        (
            WANTED,
            (own(version=1), *KERNELS[1:]),
            "org/base (version 1) is locked, and nothing needs it.",
        ),
    ],
)
def test_what_does_not_fit_is_said(
    wanted: list[Wanted], kernels: tuple[LockedKernel, ...], problem: str
) -> None:
    (first, *_) = check_lock(wanted, Lock(kernels))
    assert first.startswith(problem)


def test_kernels_that_need_each_other_and_that_nothing_else_needs_are_left_over() -> None:
    circle = (needed(BASE, DEEP), needed(DEEP, BASE))
    assert len(check_lock([], Lock(circle))) == 2


@pytest.mark.parametrize("missing", [{"variants": None}, {"direct": None}])
def test_a_lock_without_digests_is_not_good_enough(missing: dict[str, None]) -> None:
    kernels = (attrs.evolve(KERNELS[0], **missing), *KERNELS[1:])
    (problem,) = check_lock(WANTED, Lock(kernels))
    assert "no digests" in problem
