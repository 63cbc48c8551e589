"""Which lock is used: the file that is named, else the one in the metadata of the caller."""

from __future__ import annotations

import importlib
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kernels_core.errors import LockFileError, LockFileNotFoundError, NotLockedError
from kernels_core.locks.installed import Caller, find_lock

A, B = "a" * 40, "b" * 40
PROGRAM = """
from kernels_core import LockedLayerRepository
from kernels_core.locks.installed import find_lock

commit = None


def layer():
    return LockedLayerRepository("org/name", layer_name="Twice")


def ask(repo_id="org/name"):
    return find_lock().kernel(repo_id).commit


if __name__ == "__main__":
    commit = ask()
"""


def lock_of(commit: str, repo_id: str = "org/name") -> str:
    dependency = {"repo-id": repo_id, "version": 1}
    return json.dumps([{"dependency": dependency, "lock": {"commit": commit}}])


Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a distribution with the module `<name>.tool`, as installers leave it.

    `metadata` are files of its metadata folder, and `files` what its RECORD names.
    """
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)

    def install(
        name: str, *, files: list[str] | None = None, folder: Path = site, **metadata: str
    ) -> Path:
        module = folder / name / "tool.py"
        module.parent.mkdir(parents=True, exist_ok=True)
        module.write_text(PROGRAM)
        (module.parent / "__init__.py").touch()
        info = site / f"{name}_kernels-1.0.dist-info"
        record = [f"{name}/__init__.py", f"{name}/tool.py"] if files is None else files
        metadata = {
            "METADATA": f"Metadata-Version: 2.1\nName: {name}-kernels\nVersion: 1.0\n",
            "RECORD": "".join(f"{file},,\n" for file in record),
        } | metadata
        for file, content in metadata.items():
            (info / file).parent.mkdir(parents=True, exist_ok=True)
            (info / file).write_text(content)
        return module

    yield install
    for module in set(sys.modules) - before:
        del sys.modules[module]


def ask(name: str, **arguments: str) -> str:
    module = __import__(f"{name}.tool", fromlist=["tool"])
    return str(module.ask(**arguments))


def layer(name: str) -> Any:
    """A layer as the code of a module makes it."""
    return importlib.import_module(name).layer()


def test_the_lock_file_that_is_named_is_used(install: Install, tmp_path: Path) -> None:
    install("lk_named", **{"kernels.lock": lock_of(A)})
    other = tmp_path / "other.lock"
    other.write_text(lock_of(B))
    assert find_lock(other).kernel("org/name").commit == B
    assert find_lock(other).source == str(other)


@pytest.mark.parametrize("place", ["kernels.lock", "extra_metadata/kernels.lock"])
def test_the_callers_lock_is_found_where_build_backends_put_it(
    install: Install, place: str
) -> None:
    name = f"lk_{len(place)}"
    install(name, **{place: lock_of(A)})
    install("lk_neighbour", **{"kernels.lock": lock_of(B)})
    assert ask(name) == A
    assert ask("lk_neighbour") == B


def test_the_digests_beside_it_are_read(install: Install) -> None:
    digests = json.dumps({"format": 1, "kernels": []})
    install("lk_digests", **{"kernels.lock": lock_of(A), "kernels.lock.digests.json": digests})
    with pytest.raises(LockFileError, match="lk_digests_kernels"):
        ask("lk_digests")


def test_a_module_that_runs_as_a_program_is_known_by_its_package(install: Install) -> None:
    install("lk_program", **{"kernels.lock": lock_of(A)})
    assert runpy.run_module("lk_program.tool", run_name="__main__")["commit"] == A


def test_a_caller_in_a_package_of_several_distributions_is_identified_by_its_file(
    install: Install, tmp_path: Path
) -> None:
    install("lk_shared", files=["lk_shared/other.py"], **{"kernels.lock": lock_of(B)})
    with pytest.raises(LockFileNotFoundError):
        ask("lk_shared")
    second = tmp_path / "site" / "lk_second-1.0.dist-info"
    second.mkdir()
    (second / "METADATA").write_text("Metadata-Version: 2.1\nName: lk-second\nVersion: 1.0\n")
    (second / "RECORD").write_text("lk_shared/tool.py,,\n")
    (second / "kernels.lock").write_text(lock_of(A))
    assert ask("lk_shared") == A


def test_an_editable_installation_includes_its_source_tree(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "checkout with space"
    origin = {"url": source.as_uri(), "dir_info": {"editable": True}}
    install(
        "lk_editable",
        files=["_lk_editable.pth"],
        folder=source / "src",
        **{"kernels.lock": lock_of(A), "direct_url.json": json.dumps(origin)},
    )
    monkeypatch.syspath_prepend(str(source / "src"))
    assert ask("lk_editable") == A


def test_a_source_tree_on_the_path_includes_its_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "lk_tree"
    package.mkdir()
    (package / "tool.py").write_text(PROGRAM)
    info = tmp_path / "lk_tree.egg-info"
    info.mkdir()
    (info / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: lk-tree\nVersion: 1.0\n")
    (info / "top_level.txt").write_text("lk_tree\n")
    (info / "kernels.lock").write_text(lock_of(A))
    monkeypatch.syspath_prepend(str(tmp_path))
    inside = Caller("lk_tree.tool", str(package / "tool.py"))
    assert find_lock(caller=inside).kernel("org/name").commit == A
    outside = Caller("elsewhere", str(tmp_path / "elsewhere.py"))
    with pytest.raises(LockFileNotFoundError):
        find_lock(caller=outside)


def test_a_caller_without_a_lock_is_told_what_to_do(install: Install) -> None:
    install("lk_none")
    install("lk_other", **{"kernels.lock": lock_of(A)})
    with pytest.raises(LockFileNotFoundError, match=r"kernels-core lock.*lockfile=") as caught:
        ask("lk_none")
    assert "lk_none" in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)


def test_code_in_no_file_has_no_lock(install: Install) -> None:
    install("lk_unused", **{"kernels.lock": lock_of(A)})
    namespace = {"__name__": "__main__", "find_lock": find_lock}
    with pytest.raises(LockFileNotFoundError, match="__main__"):
        eval("find_lock()", namespace)


def test_a_kernel_that_the_callers_lock_lacks_is_named(install: Install) -> None:
    install("lk_lacks", **{"kernels.lock": lock_of(A)})
    with pytest.raises(NotLockedError, match=r"lk_lacks_kernels.*does not lock org/other"):
        ask("lk_lacks", repo_id="org/other")


def test_a_malformed_lock_in_the_metadata_is_an_error_that_names_it(install: Install) -> None:
    install("lk_broken", **{"kernels.lock": "[1]"})
    with pytest.raises(LockFileError, match=r"lk_broken_kernels-1\.0\.dist-info"):
        ask("lk_broken")


def test_asking_again_does_not_search_the_installed_distributions_again(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("lk_again", **{"kernels.lock": lock_of(A)})
    assert ask("lk_again") == A
    monkeypatch.delattr("importlib.metadata.distributions")
    assert ask("lk_again") == A


def test_layers_are_equal_unless_the_code_that_makes_them_has_different_locks(
    install: Install,
) -> None:
    files = [f"lk_one/{name}.py" for name in ("__init__", "tool", "other")]
    tool = install("lk_one", files=files, **{"kernels.lock": lock_of(A)})
    tool.with_name("other.py").write_text(PROGRAM)
    install("lk_two", **{"kernels.lock": lock_of(B)})
    install("lk_three")
    install("lk_four")
    install("lk_broken", **{"kernels.lock": "[7]"})
    names = [f"lk_{name}.tool" for name in ("one", "two", "three", "broken")]
    different = [layer(name) for name in names]
    assert len(set(different)) == len(different)
    for same, other in (("lk_one.tool", "lk_one.other"), ("lk_three.tool", "lk_four.tool")):
        assert layer(same) == layer(other)
        assert len({layer(same), layer(other)}) == 1
