"""Which paths of a repository may be used."""

from __future__ import annotations

import ntpath
import os
import posixpath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kernels_core.repository.paths import first_collision, is_safe

SAFE = [
    "__init__.py",
    "build/torch-cpu/metadata.json",
    "E=8,N=14336,device_name=NVIDIA_A100.json",
    "a b/ü.txt",
    "..hidden/...x",
    ".gitattributes",
    "a..b",
]
UNSAFE = [
    "",
    ".",
    "..",
    "../a.py",
    "a/../b.py",
    "a/..",
    "/etc/passwd",
    "//server/share",
    "a//b.py",
    "a/",
    "./a.py",
    "a\\b.py",
    "..\\a.py",
    "C:/a.py",
    "a.py:stream",
    "a\0.py",
    "a\n.py",
    "a\u202ey.py",  # shown backwards
    "a\u200d.py",  # not shown at all
    "\udc80.py",  # cannot be encoded
    ".. /a.py",  # Windows drops the space
    ". . ./a.py",
    "a/ /b.py",
    "/".join(["a"] * 33),
    "a" * 1025,
]


@pytest.mark.parametrize("path", SAFE)
def test_ordinary_paths_are_safe(path: str) -> None:
    assert is_safe(path)


@pytest.mark.parametrize("path", UNSAFE)
def test_paths_that_could_lead_elsewhere_are_not(path: str) -> None:
    assert not is_safe(path)


@given(st.text(alphabet=st.sampled_from("aB./\\: \0~é\n"), max_size=12) | st.text(max_size=30))
@example("...")
def test_a_safe_path_stays_inside_on_every_system(path: str) -> None:
    if not is_safe(path):
        return
    for module, top in ((posixpath, "/top/build"), (ntpath, "C:\\top\\build")):
        joined = module.normpath(module.join(top, path))
        assert joined.startswith(top + module.sep)
    assert os.path.basename(path) not in ("", ".", "..")
    path.encode()


@pytest.mark.parametrize(
    "paths",
    [
        ["layers.py", "Layers.py"],
        ["ops/a.py", "OPS/b.py"],
        ["ops/a.py", "Ops"],
        ["ops", "ops/a.py"],
        ["ops/a.py", "ops"],
        ["a/b/c.py", "a/b"],
        ["caf\u00e9.py", "cafe\u0301.py"],  # composed and decomposed
        ["\u00df.py", "SS.py"],
        ["\ufb01.py", "fi.py"],  # one identifier to Python
        ["a.py", "a.py."],
        ["a .py", "a/b", "A "],
        ["twice", "twice"],
    ],
)
def test_paths_that_some_file_system_takes_for_one_collide(paths: list[str]) -> None:
    found = first_collision(paths)
    assert found is not None
    assert set(found) <= set(paths)
    assert first_collision(paths[::-1]) is not None


@pytest.mark.parametrize(
    "paths",
    [
        [],
        ["a"],
        ["a/b", "a/c", "a/d/e", "a/d/f"],
        ["a", "ab", "a.b"],
        ["a/b", "b/a", "b/b"],
        ["x/a.py", "y/A.py"],
    ],
)
def test_different_paths_do_not_collide(paths: list[str]) -> None:
    assert first_collision(paths) is None


names = st.sampled_from(["a", "A", "b", "é", "É"])
path_sets = st.sets(st.lists(names, min_size=1, max_size=3).map("/".join), max_size=6)


@given(path_sets)
def test_what_does_not_collide_is_a_tree_whatever_the_case(paths: set[str]) -> None:
    """The file system that ignores case is a dict here: each folded path has one meaning."""
    meanings: dict[str, set[tuple[str, bool]]] = {}
    for path in paths:
        parts = path.split("/")
        for end in range(1, len(parts) + 1):
            name = "/".join(parts[:end])
            meanings.setdefault(name.lower(), set()).add((name, end == len(parts)))
    expected = any(len(meaning) > 1 for meaning in meanings.values())
    assert (first_collision(sorted(paths)) is not None) == expected


def test_a_hostile_number_of_deep_paths_takes_no_time() -> None:
    paths = [f"{'d/' * 31}{n}" for n in range(20_000)]
    assert first_collision(paths) is None
