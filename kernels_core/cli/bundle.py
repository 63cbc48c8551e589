"""`kernels-core bundle` and `unbundle`: kernels for a machine that cannot reach the Hub."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import attrs

from kernels_core.bundles.archives import is_archive
from kernels_core.bundles.bundle import (
    unpack_bundle,
    unpack_if_missing,
    verify_bundle,
    write_bundle,
)
from kernels_core.bundles.manifest import BundledKernel
from kernels_core.cli.download import (
    FailedRow,
    KernelRow,
    downloaded,
    failed,
    failures_as_text,
    kernels_as_text,
    rows,
)
from kernels_core.cli.output import as_table, size_text
from kernels_core.loading.download import Request, Selection, merged


@attrs.frozen
class BundleReport:
    """A bundle; the attributes are the keys of `--json`.

    When something failed, no bundle is written: then its path and digest are None.
    """

    bundle: str | None
    digest: str | None
    size: int
    kernels: tuple[KernelRow, ...]
    failures: tuple[FailedRow, ...]


def bundle(
    requests: Sequence[Request], path: Path, selection: Selection, endpoint: str | None = None
) -> BundleReport:
    """Write a bundle, unless something that belongs in it cannot be downloaded."""
    results = downloaded(requests, selection)
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
    """A bundle that was verified, in a directory that `KERNELS_CACHE` may name.

    The attributes are the keys of `--json`.
    """

    directory: str
    digest: str
    size: int
    kernels: tuple[BundledKernel, ...]


def unbundle(
    path: Path, directory: Path | None, expected: str | None, if_missing: bool = False
) -> UnbundleReport:
    """Verify a bundle, and unpack it to the directory when it is an archive."""
    if directory is None:
        manifest = verify_bundle(path, expected)
    elif if_missing:
        manifest = unpack_if_missing(path, directory, expected)
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
