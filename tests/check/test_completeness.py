"""Which builds a repository must have, given those that it has."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from kernels_core.check import check
from kernels_core.check.facts.repository import read_repository
from kernels_core.check.rules.completeness import outdated
from kernels_core.check.tables import table

Make = Callable[..., Path]

CUDA = [
    f"torch{torch}-cxx11-cu{cuda}-x86_64-linux"
    for torch in ("212", "213")
    for cuda in ("126", "130", "132")
]
XPU = ["torch212-cxx11-xpu20253-x86_64-linux", "torch213-cxx11-xpu20260-x86_64-linux"]
METAL = ["torch212-metal-aarch64-darwin", "torch213-metal-aarch64-darwin"]


@pytest.fixture
def missing(make_build: Make) -> Callable[..., list[str]]:
    """What is found in a repository with builds of these names, message by message."""

    def find(names: Iterable[str], **options: object) -> list[str]:
        for name in names:
            repository = make_build(name, {"__init__.py": ""})
        report = check(repository, select=["completeness"], **options)  # type: ignore[arg-type]
        assert {finding.problem.path for finding in report.findings} <= {"build"}
        return [finding.problem.message for finding in report.findings]

    return find


@pytest.mark.parametrize(
    "names",
    [
        ["torch-universal"],
        ["torch-cuda", "torch-rocm"],
        CUDA,
        XPU,
        METAL,
        ["torch212-cxx11-cpu-aarch64-linux", "torch213-cxx11-cpu-aarch64-linux"],
        ["torch212-cpu-aarch64-darwin", "torch213-cpu-aarch64-darwin"],
        # Without the tag it fits either C++ ABI.
        ["torch212-cpu-x86_64-linux", "torch213-cpu-x86_64-linux"],
        # Nothing is required of what no list tells of.
        ["torch213-cu130-x86_64-windows"],
        ["torch213-cxx11-acme12-x86_64-linux"],
        ["tvm-ffi01-cu130-x86_64-linux"],
        ["no variant at all"],
    ],
)
def test_what_is_complete(missing: Callable[..., list[str]], names: list[str]) -> None:
    assert missing(names) == []


def test_each_combination_is_told_with_all_that_it_lacks(
    missing: Callable[..., list[str]],
) -> None:
    date = table("required_variants")["date"]
    assert missing([*CUDA[1:], *METAL[:1], "torch26-cxx11-cpu-aarch64-linux"]) == [
        f"lacks 2 of the 2 builds required for cpu on aarch64 linux as of {date}: "
        f"torch212-cxx11-cpu-aarch64-linux, torch213-cxx11-cpu-aarch64-linux",
        f"lacks 1 of the 6 builds required for cuda on x86_64 linux as of {date}: {CUDA[0]}",
        f"lacks 1 of the 2 builds required for metal on aarch64 darwin as of {date}: {METAL[1]}",
    ]


def test_another_abi_does_not_serve(missing: Callable[..., list[str]]) -> None:
    (message,) = missing(["torch212-cxx98-cpu-x86_64-linux", "torch213-cxx11-cpu-x86_64-linux"])
    assert message.startswith("lacks 1 of the 2 builds")
    assert message.endswith(": torch212-cxx11-cpu-x86_64-linux")


def test_a_build_for_the_stable_abi_serves_for_later_releases(
    missing: Callable[..., list[str]],
) -> None:
    names = [f"torch-stable-abi210-cu{cuda}-x86_64-linux" for cuda in ("126", "130", "132")]
    assert missing(names) == []


def test_a_build_for_the_stable_abi_serves_no_earlier_release_and_no_other_toolkit(
    missing: Callable[..., list[str]],
) -> None:
    (message,) = missing(["torch-stable-abi213-cu130-x86_64-linux"])
    lacking = sorted(set(CUDA) - {"torch213-cxx11-cu130-x86_64-linux"})
    assert sorted(message.partition(": ")[2].split(", ")) == lacking


def test_a_repository_ahead_of_the_list_may_have_dropped_the_oldest_release(
    missing: Callable[..., list[str]],
) -> None:
    newer = [f"torch214-cxx11-cu{cuda}-x86_64-linux" for cuda in ("126", "130", "132")]
    assert missing([*CUDA[3:], *newer]) == []


def test_builds_that_are_not_looked_at_are_there_all_the_same(
    missing: Callable[..., list[str]],
) -> None:
    assert missing([*CUDA, METAL[0]], variants=["*cu130*"]) == []


def test_a_list_that_is_too_old_is_told(make_build: Make) -> None:
    repository = read_repository(make_build(CUDA[0], {"__init__.py": ""}))
    year, month = map(int, table("required_variants")["date"].split("-"))
    soon = datetime.date(year + month // 12, month % 12 + 1, 1)
    assert outdated(repository, soon) == ()
    (note,) = outdated(repository, datetime.date(year + 1, month, 1))
    assert note.startswith("completeness: the list of required builds is from")


def test_kernels_without_native_code_have_nothing_to_do_with_the_list(make_build: Make) -> None:
    repository = read_repository(make_build("torch-universal", {"__init__.py": ""}))
    assert outdated(repository, datetime.date(2100, 1, 1)) == ()


def test_the_list_has_a_source_and_names_only_what_can_be_read() -> None:
    content = table("required_variants")
    assert content["source"]
    assert {tag["tag"] for tag in content["builds"]} == {
        *("cpu", "cu126", "cu130", "cu132", "metal", "rocm71", "rocm72", "xpu20253", "xpu20260")
    }
