"""`kernels-core lock --check`: whether a lock still matches its project."""

from __future__ import annotations

import attrs
import pytest

from kernels_core.locks.check import check_lock
from kernels_core.locks.lock import Lock, LockedKernel
from kernels_core.locks.project import Requirement
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


REQUIREMENTS = [Requirement("org/name", 1), Requirement("org/tagged", ">=0.1")]
KERNELS = (
    own(version=1, depends=(BASE,)),
    own("org/tagged", revision="v0.2.0"),
    needed(BASE, DEEP),
    needed(DEEP),
)


def test_a_lock_that_was_written_for_the_project_has_no_problem() -> None:
    assert check_lock(REQUIREMENTS, Lock(KERNELS)) == ()
    assert check_lock([], Lock(())) == ()


@pytest.mark.parametrize(
    ("requirements", "kernels", "problem"),
    [
        ([*REQUIREMENTS, Requirement("org/new", 1)], KERNELS, "org/new (version 1) is not locked."),
        (
            REQUIREMENTS[:1],
            KERNELS,
            "org/tagged (at v0.2.0) is locked, but the project does not require it.",
        ),
        (
            [Requirement("org/name", 2), REQUIREMENTS[1]],
            KERNELS,
            "org/name (version 2) is required, but org/name (version 1) is locked.",
        ),
        (
            [REQUIREMENTS[0], Requirement("org/tagged", "<0.2")],
            KERNELS,
            "org/tagged (version <0.2) is required, but org/tagged (at v0.2.0) is locked.",
        ),
        (
            REQUIREMENTS,
            KERNELS[:3],
            "org/deep (version 1), which org/base (version 1) needs, is not locked.",
        ),
        (
            REQUIREMENTS,
            (own(version=1), *KERNELS[1:]),
            "org/base (version 1) is locked, but nothing needs it.",
        ),
    ],
)
def test_each_problem_is_reported(
    requirements: list[Requirement], kernels: tuple[LockedKernel, ...], problem: str
) -> None:
    (first, *_) = check_lock(requirements, Lock(kernels))
    assert first.startswith(problem)


def test_kernels_that_need_each_other_and_that_nothing_else_needs_are_left_over() -> None:
    circle = (needed(BASE, DEEP), needed(DEEP, BASE))
    assert len(check_lock([], Lock(circle))) == 2


@pytest.mark.parametrize("missing", [{"variants": None}, {"direct": None}])
def test_a_lock_without_digests_is_not_good_enough(missing: dict[str, None]) -> None:
    kernels = (attrs.evolve(KERNELS[0], **missing), *KERNELS[1:])
    (problem,) = check_lock(REQUIREMENTS, Lock(kernels))
    assert "no digests" in problem
