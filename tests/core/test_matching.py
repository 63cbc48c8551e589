"""Matching the core's own kinds of requirement, as plugins do."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels_core.device import (
    Architectures,
    CapabilityRange,
    CUDAProperties,
    Features,
    MinimumVersions,
)
from kernels_core.hookspecs import BackendTag, Detection
from kernels_core.matching import (
    match_architectures,
    match_capability,
    match_features,
    match_minimum_versions,
    match_same_version,
)


@pytest.mark.parametrize("runtime", ["7.1", "7.2", "7.10", "10.1", None])
@pytest.mark.parametrize("version", [(7, 1), (7, 2), (7, 10), (10, 1)])
def test_same_version(version: tuple[int, int], runtime: str | None) -> None:
    match = match_same_version(
        BackendTag("acme", "acme", version), Detection(1, runtime_version=runtime)
    )
    written = f"{version[0]}.{version[1]}"
    assert match.fits == (written == runtime)
    if not match.fits:
        assert written in match.reason
        assert (runtime or "unknown") in match.reason


@given(
    bounds=st.tuples(st.integers(0, 150), st.integers(0, 150)).map(sorted),
    capability=st.tuples(st.integers(0, 14), st.integers(0, 9)),
)
def test_capability_range(bounds: list[int], capability: tuple[int, int]) -> None:
    match = match_capability(CUDAProperties(*bounds), capability)
    number = 10 * capability[0] + capability[1]
    assert match.fits == (bounds[0] <= number <= bounds[1])
    assert match.fits or str(number) in match.reason


def test_a_narrower_range_is_better() -> None:
    wide = match_capability(CapabilityRange(75, 120), (9, 0))
    narrow = match_capability(CapabilityRange(80, 90), (9, 0))
    exact = match_capability(CapabilityRange(90, 90), (9, 0))
    assert exact > narrow > wide


def test_architectures_rank_by_how_specific_the_name_is() -> None:
    names = ["gfx90a:xnack-", "gfx90a", "gfx9-generic"]
    ranked = [
        match_architectures(Architectures(required), names)
        for required in (
            ["gfx90a:xnack-"],
            ["gfx90a"],
            ["gfx90a", "gfx942"],
            ["gfx9-generic"],
            ["gfx9-generic", "gfx1100"],
        )
    ]
    assert all(match.fits for match in ranked)
    assert all(better > worse for better, worse in itertools.pairwise(ranked))


def test_a_named_architecture_outranks_any_range() -> None:
    family = match_architectures(Architectures(["a", "b", "family"]), ["exact", "family"])
    assert family > match_capability(CapabilityRange(90, 90), (9, 0))


def test_architectures_that_do_not_fit_say_what_was_required() -> None:
    one = match_architectures(Architectures("gfx942"), ["gfx1100"])
    assert one.reason == "it is gfx1100, and gfx942 is required"
    two = match_architectures(Architectures(["b", "a"]), [])
    assert two.reason == "it is of unknown architecture, and one of a, b is required"


def test_architecture_names_ignore_case() -> None:
    assert match_architectures(Architectures("0xE20B"), ["0xe20b"]).fits


@given(
    required=st.sets(st.sampled_from("abcdef"), min_size=1),
    features=st.frozensets(st.sampled_from("abcdef")),
)
def test_all_features_are_needed(required: set[str], features: frozenset[str]) -> None:
    match = match_features(Features(required), features)
    assert match.fits == (required <= features)
    if match.fits:
        assert match.rank == (len(required),)
    else:
        missing = match.reason.removeprefix("it lacks ").split(", ")
        assert missing == sorted(required - features)


HAS = {"metal": "3.2", "os": "15.10"}


@pytest.mark.parametrize(
    ("required", "fits"),
    [
        ({"os": "15.10"}, True),
        ({"os": "15.9"}, True),
        ({"os": "15"}, True),
        ({"os": "15.10.1"}, False),
        ({"os": "26.0"}, False),
        ({"os": "14.0", "metal": "3.2"}, True),
        ({"os": "14.0", "metal": "4.0"}, False),
        ({"cuda": "1.0"}, False),
    ],
)
def test_minimum_versions(required: dict[str, str], fits: bool) -> None:
    assert match_minimum_versions(MinimumVersions(required), HAS).fits == fits


def test_an_unknown_version_name_says_which_there_are() -> None:
    match = match_minimum_versions(MinimumVersions({"glibc": "2.28"}), HAS)
    assert match.reason == "the version of glibc is not known, only that of metal, os"


def test_requiring_newer_is_more_specific() -> None:
    ranked = [
        match_minimum_versions(MinimumVersions(required), HAS)
        for required in (
            {"metal": "3.2", "os": "15.0"},
            {"metal": "3.2"},
            {"metal": "3.1"},
            {"os": "15.10"},
            {"os": "15.9"},
            {"os": "9.0"},
        )
    ]
    assert all(better > worse for better, worse in itertools.pairwise(ranked))
