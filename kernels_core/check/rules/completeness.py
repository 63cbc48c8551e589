"""Rules: a repository has every required build, by a list that changes with torch.

The list is `data/required_variants.json`. The names of its builds say what a repository claims to
support: one native build for torch claims its backend, CPU and system.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from kernels_core.check.facts.build_names import (
    SYSTEMS_WITH_CXX_TAG,
    backend_of,
    backend_text,
    read_name,
)
from kernels_core.check.facts.repository import Repository
from kernels_core.check.rule import Problem, Scope, Severity, rule
from kernels_core.check.tables import table
from kernels_core.errors import VariantNameError
from kernels_core.variants.names import NativeVariant, Torch, TorchStableAbi, TvmFfi

# torch has a release about every three months, so an older list is outdated.
_MAX_AGE_IN_MONTHS = 9

_ABI_TAG = "-cxx11"


@attrs.frozen
class _Platform:
    """A backend on a CPU and a system."""

    backend: str
    cpu: str
    os: str


@rule(Scope.REPOSITORY, Severity.ERROR)
def completeness_variants(repository: Repository) -> Iterator[Problem]:
    """For a backend, CPU and system, a repository has all required native builds, or none.

    Why: a native build fits one release of torch and a range of toolkit versions. With any other,
    the kernel does not load, although the repository has builds for the device.

    Fix: build the missing variants, or replace builds for single releases by builds for torch's
    stable ABI. A kernel without native code needs none of them; it needs builds such as
    `torch-universal`.
    """
    existing = list(_native(repository.all_variants))
    claimed = {
        _platform(variant)
        for variant in _native(build.name for build in repository.builds)
        if backend_of(variant) is not None
    }
    for platform in sorted(claimed, key=attrs.astuple):
        required = list(_required(platform, existing))
        missing = [name for name, variant in required if not _served(variant, existing)]
        if missing:
            yield Problem(
                f"lacks {len(missing)} of the {len(required)} builds required for "
                f"{platform.backend} on {platform.cpu} {platform.os} as of "
                f"{table('required_variants')['date']}: {', '.join(missing)}",
                "build",
            )


def outdated(repository: Repository, today: datetime.date) -> tuple[str, ...]:
    """What could not be judged of a repository with native builds, once the list is too old."""
    date = table("required_variants")["date"]
    year, month = map(int, date.split("-"))
    months = (today.year - year) * 12 + today.month - month
    if months <= _MAX_AGE_IN_MONTHS or not list(_native(repository.all_variants)):
        return ()
    return (
        f"completeness: the list of required builds is from {date} and lacks the current "
        f"releases of torch; upgrade kernels-core to get a newer list",
    )


def _native(names: Iterable[str]) -> Iterator[NativeVariant]:
    for name in names:
        try:
            variant = read_name(name)
        except VariantNameError:
            continue
        # Only builds for torch are listed.
        if isinstance(variant, NativeVariant) and not isinstance(variant.framework, TvmFfi):
            yield variant


def _platform(variant: NativeVariant) -> _Platform:
    return _Platform(backend_of(variant) or "", variant.cpu, variant.os)


def _required(
    platform: _Platform, existing: list[NativeVariant]
) -> Iterator[tuple[str, NativeVariant]]:
    content = table("required_variants")
    current = _current(content["torch"], existing)
    for entry in content["builds"]:
        if f"{platform.cpu}-{platform.os}" not in entry["platforms"]:
            continue
        for release in sorted(current & _releases(entry.get("torch", content["torch"]))):
            abi = _ABI_TAG if platform.os in SYSTEMS_WITH_CXX_TAG else ""
            name = f"torch{release[0]}{release[1]}{abi}-{entry['tag']}-{platform.cpu}-{platform.os}"
            variant = read_name(name)
            if isinstance(variant, NativeVariant) and _platform(variant) == platform:
                yield name, variant


def _current(listed: Iterable[str], existing: list[NativeVariant]) -> set[tuple[int, int]]:
    """The releases to require builds for. A repository ahead of the list may drop old ones."""
    known = sorted(_releases(listed))
    newer = {
        variant.framework.release
        for variant in existing
        if isinstance(variant.framework, Torch) and variant.framework.release > known[-1]
    }
    return set(known[len(newer) :])


def _releases(texts: Iterable[Any]) -> set[tuple[int, int]]:
    split = (str(text).split(".") for text in texts)
    return {(int(major), int(minor)) for major, minor in split}


def _served(required: NativeVariant, existing: list[NativeVariant]) -> bool:
    """Whether an existing build fits wherever the required one would."""
    return any(
        backend_text(required) == backend_text(variant)
        and (required.cpu, required.os) == (variant.cpu, variant.os)
        and _fits_release(variant, required)
        for variant in existing
    )


def _fits_release(variant: NativeVariant, required: NativeVariant) -> bool:
    framework = variant.framework
    if isinstance(framework, TorchStableAbi):
        return framework.release <= required.framework.release
    assert isinstance(framework, Torch)
    # A build without the tag fits either ABI.
    return framework.release == required.framework.release and framework.cxx11_abi is not False
