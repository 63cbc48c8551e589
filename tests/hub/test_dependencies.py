"""Kernels that need other kernels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub_server import Hub, kernel_files, longest_chain

from kernels_core import (
    errors,
    get_kernel,
    get_kernel_dep,
    get_local_kernel,
    get_locked_kernel,
    has_kernel,
    install_kernel,
)

NEEDY = """
from kernels_core import get_kernel_dep

answer = get_kernel_dep("org/base").answer


def ask(name):
    return get_kernel_dep(name).answer
"""


def needing(*dependencies: tuple[str, int | str], source: str = NEEDY) -> dict[str, bytes]:
    depends = [
        {"repo-id": repo_id, "version" if isinstance(at, int) else "revision": at}
        for repo_id, at in dependencies
    ]
    return kernel_files("needy", source=source, kernel_depends=depends)


@pytest.fixture
def base(hub: Hub) -> dict[int, str]:
    """Two versions of a kernel that others need: commit by version."""
    return {
        version: hub.add(
            "org/base",
            kernel_files("base", source=f"answer = 'base {version}'"),
            branch=f"v{version}",
        )
        for version in (1, 2)
    }


def test_each_kernel_gets_the_version_that_it_declares(hub: Hub, base: dict[int, str]) -> None:
    hub.add("org/first", needing(("org/base", 1)))
    hub.add("org/second", needing(("org/base", 2)))
    hub.add("org/third", needing(("org/base", base[1])))
    first, second, third = (get_kernel(f"org/{name}") for name in ("first", "second", "third"))
    assert (first.answer, second.answer, third.answer) == ("base 1", "base 2", "base 1")
    assert second.ask("org/base") == "base 2", "also after it was imported"


def test_they_are_installed_with_the_kernel(hub: Hub, base: dict[int, str]) -> None:
    hub.add("org/first", needing(("org/base", 1), source="from kernels_core import get_kernel_dep"))
    install_kernel("org/first")
    hub.stop()
    assert get_kernel("org/first") is not None


def test_a_level_of_dependencies_costs_few_round_trips(hub: Hub, base: dict[int, str]) -> None:
    hub.add("org/other", kernel_files("other"), branch="v1")
    hub.add("org/first", needing(("org/base", 1), ("org/other", 1)))
    hub.latency = 0.05
    get_kernel("org/first")
    assert longest_chain(hub.requests) <= 5 + 4


def test_a_kernel_on_disk_may_need_one_on_the_hub(
    hub: Hub, base: dict[int, str], tmp_path: Path
) -> None:
    build = tmp_path / "local" / "build" / "torch-cpu"
    build.mkdir(parents=True)
    (build / "__init__.py").write_text(NEEDY)
    metadata = {"kernel-depends": [{"repo-id": "org/base", "version": 1}]}
    (build / "metadata.json").write_text(json.dumps(metadata))
    assert get_local_kernel(tmp_path / "local").answer == "base 1"


def test_a_lock_also_decides_the_commits_of_dependencies(
    hub: Hub, base: dict[int, str], tmp_path: Path
) -> None:
    commit = hub.add("org/first", needing(("org/base", 1)), branch="v1")
    entries = [
        {"dependency": {"repo-id": name, "version": 1}, "lock": {"commit": locked}}
        for name, locked in (("org/base", base[2]), ("org/first", commit))
    ]
    lock = tmp_path / "kernels.lock"
    lock.write_text(json.dumps(entries))
    assert get_locked_kernel("org/first", lockfile=lock).answer == "base 2"
    assert "refs" not in {request.kind for request in hub.requests}
    lock.write_text(json.dumps(entries[1:]))
    with pytest.raises(errors.NotLockedError, match="org/base"):
        get_locked_kernel("org/first", lockfile=lock)


def test_what_is_not_declared_is_refused(hub: Hub, base: dict[int, str]) -> None:
    hub.add("org/first", needing(("org/base", 1)))
    module = get_kernel("org/first")
    with pytest.raises(errors.DependencyError, match=r"does not declare.*org/other.*org/base"):
        module.ask("org/other")


def test_only_kernels_may_load_dependencies(hub: Hub) -> None:
    with pytest.raises(errors.DependencyError, match="call get_kernel"):
        get_kernel_dep("org/base")


def test_what_is_needed_must_exist(hub: Hub, base: dict[int, str]) -> None:
    hub.add("org/first", needing(("org/base", 1), ("org/nothing", 1)))
    assert not has_kernel("org/first")
    with pytest.raises(errors.HubNotFoundError, match="org/nothing"):
        get_kernel("org/first")
    hub.add("org/second", needing(("org/base", 9)))
    assert not has_kernel("org/second")
    with pytest.raises(errors.VersionNotFoundError, match="org/base has no version 9"):
        get_kernel("org/second")


def test_what_is_needed_must_be_trusted_too(hub: Hub) -> None:
    hub.add("evil/base", kernel_files("base"), branch="v1", publisher_trusted=False)
    source = NEEDY.replace("org/base", "evil/base")
    hub.add("org/first", needing(("evil/base", 1), source=source))
    with pytest.raises(errors.UntrustedError, match="evil/base"):
        get_kernel("org/first")
    assert not any("evil/base/resolve" in request.path for request in hub.requests)
    assert get_kernel("org/first", trust_remote_code=["evil"]).answer == 42


def test_an_old_version_may_need_the_new_one(hub: Hub, base: dict[int, str]) -> None:
    hub.add("org/base", needing(("org/base", 2)), branch="v0")
    assert get_kernel("org/base", version=0).answer == "base 2"


def test_a_circle_is_refused_before_anything_runs(hub: Hub) -> None:
    for name, needed in (("a", "b"), ("b", "c"), ("c", "a")):
        source = "raise AssertionError"
        hub.add(f"org/{name}", needing((f"org/{needed}", 1), source=source), branch="v1")
    with pytest.raises(errors.DependencyCycleError, match="org/a -> org/b -> org/c -> "):
        get_kernel("org/a", version=1)
