"""`kernels-core lock`: the lock of a project, written or checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs
import click

from kernels_core.cli.output import as_table
from kernels_core.errors import LockFileError, LockFileNotFoundError, ProjectError
from kernels_core.locks.check import check_lock
from kernels_core.locks.files import digests_text, lock_text, read_lock, write_lock
from kernels_core.locks.lock import LOCK_NAME, Lock, LockedKernel
from kernels_core.locks.locking import lock_project
from kernels_core.locks.project import Requirement, read_project

_SHOWN_COMMIT = 12


@attrs.frozen
class LockedRow:
    """A kernel in a lock; its change is "new", "unchanged", or "was" and the earlier commit."""

    repo_id: str
    version: int | None
    revision: str | None
    commit: str
    builds: int
    needed_by: tuple[str, ...]
    change: str


@attrs.frozen
class LockReport:
    """A lock that was written or checked; the attributes are the keys of `--json`.

    `done` is "written", "unchanged" or "checked".
    """

    lock: str
    kernels: tuple[LockedRow, ...]
    problems: tuple[str, ...] = ()
    done: str = "checked"


def lock(project: Path, *, upgrade: bool = False, upgraded: Sequence[str] = ()) -> LockReport:
    """Write the lock of a project; what is locked stays, but for what is to be upgraded."""
    path = project / LOCK_NAME
    before = _earlier(path)
    requirements = _requirements(project)
    locked = before.kernels if before else ()
    _check_names(upgraded, requirements, locked)
    keep = () if upgrade else [kernel for kernel in locked if kernel.repo_id not in upgraded]
    found = lock_project(requirements, keep)
    if before is None or (lock_text(found), digests_text(found)) != (
        lock_text(before),
        digests_text(before),
    ):
        write_lock(found, path)
        done = "written"
    else:
        done = "unchanged"
    return LockReport(str(path), tuple(_rows(found, before)), done=done)


def _check_names(
    names: Iterable[str], requirements: Iterable[Requirement], locked: Iterable[LockedKernel]
) -> None:
    known = sorted({one.repo_id for one in requirements} | {one.repo_id for one in locked})
    for name in names:
        if name not in known:
            raise click.BadParameter(
                f"{name!r} is neither required nor locked; those are {', '.join(known)}.",
                param_hint="--upgrade-kernel",
            )


def check(project: Path) -> LockReport:
    """Check the lock of a project; sends no requests."""
    path = project / LOCK_NAME
    requirements = read_project(project)
    try:
        found = read_lock(path)
    except (LockFileError, LockFileNotFoundError) as error:
        return LockReport(str(path), (), (str(error),))
    return LockReport(str(path), tuple(_rows(found, found)), check_lock(requirements, found))


def as_text(report: LockReport) -> str:
    """A report for people."""
    if report.problems:
        problems = "\n".join(f"  {problem}" for problem in report.problems)
        return f"{report.lock} does not match pyproject.toml:\n{problems}\n{_ADVICE}"
    done = "is up to date" if report.done == "checked" else report.done
    table = as_table(
        ["kernel", "required", "commit", "builds", "needed by", "change"],
        [
            (
                row.repo_id,
                f"version {row.version}" if row.revision is None else row.revision[:40],
                row.commit[:_SHOWN_COMMIT],
                str(row.builds),
                ", ".join(row.needed_by),
                "" if report.done == "checked" else row.change[: _SHOWN_COMMIT + 4],
            )
            for row in report.kernels
        ],
    )
    return f"{table}\n{report.lock} {done}."


_ADVICE = "Run 'kernels-core lock' and commit the files that it writes."


def _requirements(project: Path) -> tuple[Requirement, ...]:
    requirements = read_project(project)
    if not requirements:
        file = project / "pyproject.toml"
        raise ProjectError(
            f"{file} requires no kernels. Add some, for example:\n\n"
            f'[tool.kernels.dependencies]\n"org/name" = 1',
            path=file,
            key="tool.kernels.dependencies",
        )
    return requirements


def _earlier(path: Path) -> Lock | None:
    try:
        return read_lock(path)
    except (LockFileError, LockFileNotFoundError):
        return None


def _rows(found: Lock, before: Lock | None) -> Iterable[LockedRow]:
    earlier = {kernel.dependency: kernel for kernel in before.kernels} if before else {}
    for kernel in found.kernels:
        needed_by = [other.repo_id for other in found.kernels if kernel.dependency in other.depends]
        yield LockedRow(
            kernel.repo_id,
            kernel.dependency.version,
            kernel.dependency.revision,
            kernel.commit,
            len(kernel.variants or {}),
            tuple(dict.fromkeys(needed_by)),
            _change(kernel, earlier.get(kernel.dependency)),
        )


def _change(kernel: LockedKernel, before: LockedKernel | None) -> str:
    if before is None:
        return "new"
    return "unchanged" if before.commit == kernel.commit else f"was {before.commit}"
