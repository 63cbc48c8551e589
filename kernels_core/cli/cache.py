"""`kernels-core cache`: the kernels in the cache."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from kernels_core.cli.output import as_table, size_text
from kernels_core.hub import contents
from kernels_core.hub.cache import CACHE_VARIABLE, cache_root
from kernels_core.hub.contents import CachedCommit, Checked

_SHOWN_COMMIT = 12


@attrs.frozen
class CacheReport:
    """The kernels in a cache; the attributes are the keys of `--json`, sizes are in bytes."""

    cache: str
    kernels: tuple[CachedCommit, ...]


@attrs.frozen
class VerifyReport:
    """Builds that were verified."""

    cache: str
    builds: tuple[Checked, ...]

    @property
    def damaged(self) -> list[Checked]:
        """Those with problems."""
        return [build for build in self.builds if build.problem]


@attrs.frozen
class PruneReport:
    """What was removed, or would be, and the number of bytes that this frees."""

    cache: str
    removed: tuple[CachedCommit, ...]
    freed: int
    dry_run: bool


def list_kernels() -> CacheReport:
    """List the kernels in the cache."""
    return CacheReport(str(cache_root()), contents.list_cache())


def verify(names: Sequence[str]) -> VerifyReport:
    """Verify the builds in the cache, of the named repositories or of all."""
    commits = [one for one in contents.list_cache() if not names or one.repo_id in names]
    return VerifyReport(str(cache_root()), contents.verify_cache(commits))


def prune(*, dry_run: bool) -> PruneReport:
    """Remove what nothing names."""
    removed, freed = contents.prune_cache(dry_run=dry_run)
    return PruneReport(str(cache_root()), removed, freed, dry_run)


def list_as_text(report: CacheReport) -> str:
    """A report for people."""
    if not report.kernels:
        return f"There are no kernels in {report.cache} ({CACHE_VARIABLE} names another directory)."
    return f"{_table(report.kernels)}\n\nin {report.cache}"


def verify_as_text(report: VerifyReport) -> str:
    """A report for people."""
    lines = [
        f"{one.repo_id} ({one.variant}) at {one.commit}: {one.problem}" for one in report.damaged
    ]
    count = len(report.builds)
    lines.append(
        f"{count - len(report.damaged)} of {count} builds in {report.cache} are as published."
    )
    if report.damaged:
        lines.append("Files of the others are downloaded again when they are loaded online.")
    return "\n".join(lines)


def prune_as_text(report: PruneReport) -> str:
    """A report for people."""
    if not report.removed:
        return f"Everything in {report.cache} is named by a branch, tag or lock."
    done = "would be freed" if report.dry_run else "freed"
    return f"{_table(report.removed)}\n\n{size_text(report.freed)} {done} in {report.cache}."


def _table(commits: Sequence[CachedCommit]) -> str:
    return as_table(
        ["kernel", "names", "commit", "builds", "size"],
        [
            (
                one.repo_id,
                ", ".join(one.names) or ("by commit" if one.locked else "none"),
                one.commit[:_SHOWN_COMMIT],
                ", ".join(one.builds) or "none",
                size_text(one.size),
            )
            for one in commits
        ],
    )
