"""Walking over kernels and the kernels that they need."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import pytest

from kernels_core.errors import DependencyCycleError
from kernels_core.repository.kernel_depends import needed_first, walk

DIAMOND = {"a": ["c", "b"], "b": ["d"], "c": ["d"], "d": []}
CIRCLE = {"z": ["a"], "a": ["b"], "b": ["c"], "c": ["a"]}


def visiting(needs: Mapping[str, list[str]]) -> Callable[[str], tuple[str, list[str]]]:
    return lambda name: (name.upper(), needs[name])


def sort(needs: Mapping[str, list[str]]) -> list[str]:
    return needed_first(needs, lambda name: f"org/{name}", str)


# Walking


def test_every_kernel_is_visited_once_level_by_level() -> None:
    found = walk(["a"], visiting(DIAMOND), needed_by="a")
    assert list(found.items()) == [("a", "A"), ("c", "C"), ("b", "B"), ("d", "D")]


def test_it_begins_at_each_kernel_once_and_at_none_when_there_are_none() -> None:
    assert list(walk(["b", "c", "b"], visiting(DIAMOND), needed_by="a")) == ["b", "c", "d"]
    assert walk([], visiting(DIAMOND), needed_by="a") == {}


def test_the_kernels_of_one_level_are_visited_at_the_same_time() -> None:
    # Each waits for all the others: one after the other, this would fail.
    level = threading.Barrier(4, timeout=30)

    def visit(number: int) -> tuple[int, list[int]]:
        if number:
            level.wait()
        return number, [] if number else [1, 2, 3, 4]

    assert list(walk([0], visit, needed_by="0")) == [0, 1, 2, 3, 4]


def test_a_circle_ends_the_walk() -> None:
    assert list(walk(["z"], visiting(CIRCLE), needed_by="z")) == ["z", "a", "b", "c"]


def test_more_kernels_than_the_limit_are_refused_before_they_are_visited() -> None:
    visited = []

    def visit(number: int) -> tuple[int, list[int]]:
        visited.append(number)
        return number, [number + 1]

    with pytest.raises(DependencyCycleError, match="org/name needs more than 5 kernels") as caught:
        walk([0], visit, needed_by="org/name", limit=5)
    assert visited == [0, 1, 2, 3, 4]
    assert caught.value.repository == "org/name"


def test_as_many_kernels_as_the_limit_are_fine() -> None:
    assert len(walk(["a"], visiting(DIAMOND), needed_by="a", limit=4)) == 4


def test_the_error_is_that_of_the_first_kernel_of_a_level() -> None:
    def visit(name: str) -> tuple[str, list[str]]:
        if name in "bc":
            raise KeyError(name)
        return name, DIAMOND[name]

    with pytest.raises(KeyError, match="c"):
        walk(["a"], visit, needed_by="a")


# Order


def test_each_kernel_comes_after_those_that_it_needs() -> None:
    order = sort(DIAMOND)
    assert sorted(order) == sorted(DIAMOND)
    assert all(order.index(n) < order.index(name) for name in DIAMOND for n in DIAMOND[name])


@pytest.mark.parametrize(
    ("needs", "text"),
    [
        (CIRCLE, "a -> b -> c -> a"),
        ({"b": ["c"], "c": ["a"], "a": ["b"]}, "b -> c -> a -> b"),
        ({"a": ["a"]}, "a -> a"),
    ],
)
def test_a_circle_is_an_error_that_says_who_needs_whom(
    needs: Mapping[str, list[str]], text: str
) -> None:
    with pytest.raises(DependencyCycleError) as caught:
        sort(needs)
    assert str(caught.value) == f"Kernels depend on each other in a cycle: {text}."
    assert caught.value.repository == f"org/{text[0]}"
