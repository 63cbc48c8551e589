"""`kernels-core download`: the locked kernels of a project, downloaded ahead of use."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs
import click

from kernels_core.cli.output import as_table, size_text
from kernels_core.cli.program import Failure
from kernels_core.errors import (
    BackendNotInstalledError,
    BackendUnavailableError,
    UnknownDeviceError,
)
from kernels_core.hub.trust import TrustList
from kernels_core.loading.download import (
    Downloaded,
    Request,
    Result,
    Selection,
    download_kernels,
    merged,
)
from kernels_core.locks.files import read_lock
from kernels_core.locks.lock import LOCK_NAME
from kernels_core.locks.project import parse_requirement

_SHOWN_COMMIT = 12
_SHOWN_BUILDS = 3


@attrs.frozen
class KernelRow:
    """Builds of one commit that were downloaded; the size is in bytes."""

    repo_id: str
    commit: str
    variants: tuple[str, ...]
    size: int


@attrs.frozen
class FailedRow:
    """A kernel that could not be downloaded; the kind is the name of the exception's class."""

    repo_id: str
    error: str
    kind: str


@attrs.frozen
class DownloadReport:
    """What was downloaded, and what was not; the attributes are the keys of `--json`."""

    kernels: tuple[KernelRow, ...]
    failures: tuple[FailedRow, ...]


def selected(
    all_variants: bool, variants: tuple[str, ...], backend: str | None, trust: tuple[str, ...]
) -> Selection:
    """The builds that the options of a command select; raises click's errors for wrong options."""
    if all_variants + bool(variants) + bool(backend) > 1:
        raise click.UsageError("Give one of --all-variants, --variant and --backend.")
    try:
        TrustList.of(trust)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--trust") from None
    return Selection(("*",) if all_variants else variants or None, backend, trust)


def named(kernels: Sequence[str]) -> list[Request]:
    """Requests for kernels by their names; raises click's error for a malformed name."""
    try:
        return [Request(parse_requirement(kernel)) for kernel in kernels]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="KERNEL") from None


def locked(project: Path) -> list[Request]:
    """Requests for everything in the lock of a project."""
    return Request.of_lock(read_lock(project / LOCK_NAME))


def download(targets: Sequence[str], selection: Selection) -> DownloadReport:
    """Download the locked kernels of a project, or kernels by their names."""
    requests: list[Request] = []
    for target in targets or (".",):
        # A name such as org/name may be that of a directory, too, but not of a project.
        is_project = os.path.isdir(target) or target.startswith((".", os.sep))
        requests += locked(Path(target)) if is_project else named([target])
    results = downloaded(requests, selection)
    return DownloadReport(rows(merged(results)), failed(results))


def downloaded(requests: Sequence[Request], selection: Selection) -> list[Result]:
    """Download kernels; an error of a machine without a backend says what else to do."""
    try:
        return download_kernels(requests, selection)
    except (BackendNotInstalledError, BackendUnavailableError, UnknownDeviceError) as error:
        raise Failure(
            f"{error}\nThis machine need not run what it downloads: name the builds with "
            f"--variant, such as --variant '*-cu130-x86_64-linux', take all with --all-variants, "
            f"or name an installed backend with --backend.",
            kind=type(error).__name__,
        ) from error


def rows(kernels: Iterable[Downloaded]) -> tuple[KernelRow, ...]:
    """What was downloaded, for a report."""
    return tuple(
        KernelRow(
            kernel.repository.repo_id, kernel.commit, tuple(sorted(kernel.builds)), kernel.size
        )
        for kernel in kernels
    )


def failed(results: Iterable[Result]) -> tuple[FailedRow, ...]:
    """What could not be downloaded, for a report."""
    return tuple(
        FailedRow(
            result.request.requirement.repo_id, str(result.error), type(result.error).__name__
        )
        for result in results
        if result.error is not None
    )


def as_text(report: DownloadReport) -> str:
    """A report for people."""
    parts = [kernels_as_text(report.kernels), failures_as_text(report.failures)]
    return "\n\n".join(filter(None, parts)) or "The lock contains no kernels."


def kernels_as_text(kernels: Sequence[KernelRow]) -> str:
    """Kernels as a table; "" when there are none."""
    if not kernels:
        return ""
    return as_table(
        ["kernel", "commit", "builds", "size"],
        [
            (row.repo_id, row.commit[:_SHOWN_COMMIT], _some(row.variants), size_text(row.size))
            for row in kernels
        ],
    )


def failures_as_text(failures: Iterable[FailedRow]) -> str:
    """What failed, and why; "" when nothing did."""
    return "\n\n".join(f"{row.repo_id} failed. {row.error}" for row in failures)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_BUILDS
    return ", ".join(names[:_SHOWN_BUILDS]) + (f" and {more} more" if more > 0 else "")
