"""`kernels-core bundle` and `unbundle`: kernels for a machine that reaches no Hub."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import attrs
import click

from kernels_core.bundles.archives import is_archive
from kernels_core.bundles.bundle import unpack_bundle, verify_bundle, write_bundle
from kernels_core.bundles.manifest import BundledKernel
from kernels_core.cli.download import (
    FailedRow,
    KernelRow,
    failed,
    failures_as_text,
    kernels_as_text,
    rows,
)
from kernels_core.cli.output import as_table, size_text
from kernels_core.loading.download import Request, Selection, download_kernels, merged
from kernels_core.locks.files import read_lock
from kernels_core.locks.lock import LOCK_NAME
from kernels_core.locks.project import parse_requirement


@attrs.frozen
class BundleReport:
    """A bundle that was written. The attributes are the keys of `kernels-core bundle --json`.

    Attributes:
        bundle: the archive or directory; None when something failed and none was written.
        digest: stands for all of its content; None likewise.
        size: number of bytes of its files.
        kernels: what is in it.
        failures: what could not be had.
    """

    bundle: str | None
    digest: str | None
    size: int
    kernels: tuple[KernelRow, ...]
    failures: tuple[FailedRow, ...]


def named(kernels: Sequence[str]) -> list[Request]:
    """Requests for kernels by their names; raises click's error for a malformed name."""
    try:
        return [Request(parse_requirement(kernel)) for kernel in kernels]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="KERNEL") from None


def locked(project: Path | None) -> list[Request]:
    """Requests for all that the lock of a project names."""
    return Request.of_lock(read_lock(project / LOCK_NAME)) if project else []


def bundle(
    requests: Sequence[Request], path: Path, selection: Selection, endpoint: str | None = None
) -> BundleReport:
    """Write a bundle, when everything that belongs into it can be had.

    Args:
        requests: the kernels.
        path: the archive or directory.
        selection: which builds of them.
        endpoint: the address of the Hub on the other machine.

    Raises:
        BundleError: there is something at the path.
    """
    results = download_kernels(requests, selection)
    kernels, failures = merged(results), failed(results)
    if failures:
        return BundleReport(None, None, 0, rows(kernels), failures)
    manifest = write_bundle(kernels, path, endpoint)
    return BundleReport(str(path), manifest.digest, manifest.size, rows(kernels), ())


def as_text(report: BundleReport) -> str:
    """A report for people."""
    if report.bundle is None:
        return f"{failures_as_text(report.failures)}\n\nNo bundle was written."
    directory = " DIRECTORY" if is_archive(Path(report.bundle)) else ""
    return (
        f"{kernels_as_text(report.kernels)}\n\n"
        f"{report.bundle} written, {size_text(report.size)} unpacked. On the other machine:\n"
        f"  kernels-core unbundle {Path(report.bundle).name}{directory} --digest {report.digest}"
    )


@attrs.frozen
class UnbundleReport:
    """A bundle that was verified. The attributes are the keys of `kernels-core unbundle --json`.

    Attributes:
        directory: where its files are: what `KERNELS_CACHE` must name.
        digest: stands for all of its content.
        size: number of bytes of its files.
        kernels: what is in it.
    """

    directory: str
    digest: str
    size: int
    kernels: tuple[BundledKernel, ...]


def unbundle(path: Path, directory: Path | None, expected: str | None) -> UnbundleReport:
    """Verify a bundle, and unpack it when it is an archive.

    Args:
        path: the bundle.
        directory: where to unpack; None for a bundle that is a directory.
        expected: its digest, when it is known from elsewhere.

    Raises:
        BundleError: it is damaged, or not what was expected.
    """
    if directory is None:
        manifest = verify_bundle(path, expected)
    else:
        manifest = unpack_bundle(path, directory, expected)
    target = (directory or path).absolute()
    return UnbundleReport(str(target), manifest.digest, manifest.size, manifest.kernels)


def unbundled_as_text(report: UnbundleReport) -> str:
    """A report for people."""
    table = as_table(
        ["kernel", "commit", "builds"],
        [(k.repo_id, k.commit[:12], ", ".join(k.variants)) for k in report.kernels],
    )
    return (
        f"{table}\n\nVerified, {report.digest}. To load from it:\n"
        f"  export KERNELS_CACHE={shlex.quote(report.directory)}"
    )
