"""`kernels-core trust`: what this machine trusts, and why it trusts a kernel or not."""

from __future__ import annotations

import attrs
import click

from kernels_core.cli.output import as_table
from kernels_core.errors import TrustUnknownError, UntrustedError
from kernels_core.hub.repository import HubRepository
from kernels_core.hub.trust import LIST_VARIABLE, trust_file, trusted_by_source
from kernels_core.locks.project import parse_requirement

_KIND = {
    "publishers": "publisher",
    "repositories": "repository",
    "commits": "commit",
    "digests": "build",
}


@attrs.frozen
class EntryRow:
    """An entry of the trust list: what it names, its kind, and the file or variable it is in."""

    entry: str
    kind: str
    source: str


@attrs.frozen
class TrustReport:
    """The trust list; the attributes are the keys of `--json`."""

    file: str | None
    entries: tuple[EntryRow, ...]


@attrs.frozen
class Explanation:
    """Whether a commit is trusted, and by what."""

    repo_id: str
    commit: str
    trusted: bool
    reason: str


def list_entries() -> TrustReport:
    """Everything that the trust list of this machine names."""
    rows = [
        EntryRow(entry, _KIND[kind], source)
        for source, entries in trusted_by_source().items()
        for kind, named in attrs.asdict(entries).items()
        for entry in sorted(named)
    ]
    file = trust_file()
    return TrustReport(None if file is None else str(file), tuple(rows))


def explain(kernel: str) -> Explanation:
    """Say whether a kernel would be trusted, and why; the Hub is asked if nothing else decides."""
    try:
        required = parse_requirement(kernel)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="KERNEL") from None
    repository = HubRepository(required.repo_id)
    commit = repository.pin(required.revision, required.version).commit
    try:
        reason = repository.why_trusted(commit)
    except (UntrustedError, TrustUnknownError) as error:
        return Explanation(required.repo_id, commit, False, str(error))
    return Explanation(required.repo_id, commit, True, reason)


def list_as_text(report: TrustReport) -> str:
    """A report for people."""
    where = f"{report.file} and {LIST_VARIABLE}" if report.file else LIST_VARIABLE
    if not report.entries:
        return f"The trust list of this machine, {where}, is empty: the Hub decides."
    return as_table(
        ["trusted", "kind", "by"], [(row.entry, row.kind, row.source) for row in report.entries]
    )


def explained_as_text(report: Explanation) -> str:
    """A report for people."""
    if report.trusted:
        return f"{report.repo_id} at {report.commit} is trusted: {report.reason}."
    return report.reason
