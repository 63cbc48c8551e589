"""`kernels-core lock`: what it requests, what it writes, what `--check` reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hub_server import Forks, Hub, client_environment, forget, kernel_files

from kernels_core import errors, get_locked_kernel, load_kernel
from kernels_core.cli.main import main
from kernels_core.locks.files import read_lock
from kernels_core.repository.metadata import KernelDependency


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def require(project: Path, *lines: str) -> None:
    table = "\n".join(["[tool.kernels.dependencies]", *lines])
    (project / "pyproject.toml").write_text(f"[project]\nname = 'acme'\n\n{table}\n")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["lock", *map(str, arguments)])


def locked(project: Path) -> list[Any]:
    return json.loads((project / "kernels.lock").read_text())


def test_an_int_a_specifier_a_revision_and_what_they_need_are_locked(
    hub: Hub, project: Path
) -> None:
    base = hub.add("org/base", kernel_files("base"), branch="v1")
    needs_base = [{"repo-id": "org/base", "version": 1}]
    major = hub.add("org/major", kernel_files("major", kernel_depends=needs_base), branch="v2")
    for tag in ("v0.0.3", "v0.0.10", "v0.1.0"):
        commit = hub.add("org/old", kernel_files("old", source=f"tag = {tag!r}"), tag=tag)
        if tag == "v0.0.10":
            old = commit
    main_ = hub.add("org/plain", kernel_files("plain"))
    pull = hub.add("org/pulled", kernel_files("pulled"), branch="main", ref="refs/pr/1")
    require(
        project,
        '"org/plain" = { revision = "main" }',
        '"org/major" = 2',
        '"org/pulled" = { revision = "refs/pr/1" }',
        '"org/old" = ">=0.0.3,<0.1"',
    )
    result = run(project)
    assert result.exit_code == 0, result.output
    assert locked(project) == [
        {"dependency": {"repo-id": "org/base", "version": 1}, "lock": {"commit": base}},
        {"dependency": {"repo-id": "org/major", "version": 2}, "lock": {"commit": major}},
        {"dependency": {"repo-id": "org/old", "revision": "v0.0.10"}, "lock": {"commit": old}},
        {"dependency": {"repo-id": "org/plain", "revision": "main"}, "lock": {"commit": main_}},
        {
            "dependency": {"repo-id": "org/pulled", "revision": "refs/pr/1"},
            "lock": {"commit": pull},
        },
    ]
    found = read_lock(project / "kernels.lock")
    assert found.kernel("org/major").depends == (KernelDependency("org/base", version=1),)
    assert [kernel.direct for kernel in found.kernels] == [False, True, True, True, True]
    assert all(set(kernel.variants or ()) == {"torch-cpu"} for kernel in found.kernels)
    assert run(project, "--check").exit_code == 0


def test_every_variant_has_a_digest_and_its_needs_count(hub: Hub, project: Path) -> None:
    hub.add("org/base", kernel_files("base"))
    files = kernel_files("name") | kernel_files(
        "name",
        variant="torch213-cxx11-cu130-x86_64-linux",
        also={"_ops.abi3.so": b"\x7fELF"},
        kernel_depends=[{"repo-id": "org/base", "revision": "main"}],
    )
    hub.add("org/name", files, lfs=["build/torch213-cxx11-cu130-x86_64-linux/_ops.abi3.so"])
    require(project, '"org/name" = { revision = "main" }')
    assert run(project).exit_code == 0
    kernel = read_lock(project / "kernels.lock").kernel("org/name")
    assert sorted(kernel.variants or ()) == ["torch-cpu", "torch213-cxx11-cu130-x86_64-linux"]
    assert len(set((kernel.variants or {}).values())) == 2
    assert [entry["dependency"]["repo-id"] for entry in locked(project)] == ["org/base", "org/name"]


def test_only_metadata_is_downloaded(hub: Hub, project: Path) -> None:
    hub.add("org/name", kernel_files("name"), publisher_trusted=False)
    require(project, '"org/name" = { revision = "main" }')
    assert run(project).exit_code == 0
    downloads = [request.path for request in hub.requests if "/resolve/" in request.path]
    assert downloads
    assert all(path.endswith("metadata.json") for path in downloads)


def test_check_sends_no_requests_and_says_what_is_wrong(hub: Hub, project: Path) -> None:
    hub.add("org/name", kernel_files("name"), branch="v1")
    require(project, '"org/name" = 1')
    missing = run(project, "--check")
    assert missing.exit_code == 1
    assert "kernels.lock" in missing.output
    assert run(project).exit_code == 0
    asked = len(hub.requests)
    assert run(project, "--check").exit_code == 0
    require(project, '"org/name" = 2', '"org/other" = 1')
    stale = run(project, "--check")
    assert stale.exit_code == 1
    assert "org/name (version 2) is required, but org/name (version 1) is locked." in stale.output
    assert "org/other (version 1) is not locked." in stale.output
    assert "kernels-core lock" in stale.output
    assert len(hub.requests) == asked


def test_a_branch_that_moves_does_not_fail_the_check(hub: Hub, project: Path) -> None:
    hub.add("org/name", kernel_files("name"), branch="v1")
    require(project, '"org/name" = 1')
    assert run(project).exit_code == 0
    hub.add("org/name", kernel_files("name", source="x = 2"), branch="v1")
    assert run(project, "--check").exit_code == 0


def test_locking_again_says_what_has_moved(hub: Hub, project: Path) -> None:
    first = hub.add("org/name", kernel_files("name"), branch="v1")
    require(project, '"org/name" = 1')
    assert json.loads(run(project, "--json").output)["kernels"][0]["change"] == "new"
    forget()  # as a new process does
    second = hub.add("org/name", kernel_files("name", source="x = 2"), branch="v1")
    report = json.loads(run(project, "--upgrade", "--json").output)
    assert report["kernels"] == [
        {
            "repo_id": "org/name",
            "version": 1,
            "revision": None,
            "commit": second,
            "builds": 1,
            "needed_by": [],
            "change": f"was {first}",
        }
    ]
    assert report["lock"] == str(project / "kernels.lock")
    assert report["problems"] == []


def commits(project: Path) -> dict[str, str]:
    """The locked commits."""
    return {entry["dependency"]["repo-id"]: entry["lock"]["commit"] for entry in locked(project)}


def test_what_is_locked_stays_until_it_is_to_be_upgraded(hub: Hub, project: Path) -> None:
    def publish(source: str) -> None:
        for name in ("base", "one", "two"):
            needs = [] if name == "base" else [{"repo-id": "org/base", "version": 1}]
            files = kernel_files(name, source=source, kernel_depends=needs)
            tag = "v0.2.0" if source == "x = 2" else "v0.1.0"
            hub.add(f"org/{name}", files, branch="v1", tag=tag)
        forget()

    publish("x = 1")
    require(project, '"org/one" = 1', '"org/two" = ">=0.1"')
    run(project)
    first = commits(project)
    before = {path: path.stat().st_mtime_ns for path in project.iterdir()}
    publish("x = 2")
    hub.forget()
    output = run(project).output
    assert output.endswith("kernels.lock unchanged.\n")
    assert output.count(" unchanged\n") == 3
    assert not hub.requests
    assert {path: path.stat().st_mtime_ns for path in project.iterdir()} == before
    assert run(project, "--upgrade-kernel", "org/two").exit_code == 0
    second = commits(project)
    assert {name for name in first if first[name] != second[name]} == {"org/two"}
    require(project, '"org/one" = 1', '"org/two" = "==0.1.0"')
    run(project)
    assert commits(project) == first
    assert run(project, "--upgrade").exit_code == 0
    assert {name for name in first if first[name] != commits(project)[name]} == {
        "org/base",
        "org/one",
    }
    result = run(project, "-P", "org/tow")
    assert result.exit_code == 2
    assert "'org/tow' is neither required nor locked; those are org/base, org/one" in result.output
    assert run(project, "--check", "--upgrade").exit_code == 2


def test_a_lock_without_digests_gets_them_and_keeps_its_commits(hub: Hub, project: Path) -> None:
    hub.add("org/name", kernel_files("name"), branch="v1")
    require(project, '"org/name" = 1')
    run(project)
    first, digests = commits(project), (project / "kernels.lock.digests.json").read_text()
    (project / "kernels.lock.digests.json").unlink()
    hub.add("org/name", kernel_files("name", source="x = 2"), branch="v1")
    forget()
    assert run(project).exit_code == 0
    assert commits(project) == first
    assert (project / "kernels.lock.digests.json").read_text() == digests


def test_the_table_shows_every_kernel(hub: Hub, project: Path) -> None:
    commit = hub.add("org/name", kernel_files("name"), branch="v1")
    require(project, '"org/name" = 1')
    output = run(project).output
    heading, row, last = output.strip().splitlines()
    assert heading.split() == ["KERNEL", "REQUIRED", "COMMIT", "BUILDS", "CHANGE"]
    assert row.split() == ["org/name", "version", "1", commit[:12], "1", "new"]
    assert last == f"{project / 'kernels.lock'} written."


def test_a_circle_of_kernels_is_refused(hub: Hub, project: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        needs = [{"repo-id": f"org/{other}", "version": 1}]
        hub.add(f"org/{name}", kernel_files(name, kernel_depends=needs), branch="v1")
    require(project, '"org/a" = 1')
    result = run(project)
    assert result.exit_code == 1
    assert "circle" in result.output
    assert not (project / "kernels.lock").exists()


@pytest.mark.parametrize(
    ("lines", "status", "said"),
    [
        ([], 2, "requires no kernels"),
        (['"org/name" = "0.0.3"'], 2, "=="),
        (['"org/name" = 7'], 1, "its versions are 1"),
        (['"org/none" = 1'], 1, "org/none"),
    ],
)
def test_what_cannot_be_locked_is_an_error_and_leaves_the_lock_alone(
    hub: Hub, project: Path, lines: list[str], status: int, said: str
) -> None:
    hub.add("org/name", kernel_files("name"), branch="v1")
    (project / "kernels.lock").write_text("earlier")
    require(project, *lines)
    result = run(project)
    assert result.exit_code == status
    assert result.output.startswith("Error: ")
    assert (project / "kernels.lock").read_text() == "earlier"


def test_a_lock_that_cannot_be_read_is_replaced(hub: Hub, project: Path) -> None:
    hub.add("org/name", kernel_files("name"), branch="v1")
    require(project, '"org/name" = 1')
    (project / "kernels.lock").write_text("earlier")
    assert run(project).exit_code == 0
    assert len(locked(project)) == 1
    assert sorted(path.name for path in project.iterdir()) == [
        "kernels.lock",
        "kernels.lock.digests.json",
        "pyproject.toml",
    ]


PACKAGE = """
from kernels_core import LockedLayerRepository, get_locked_kernel, load_kernel

layer = LockedLayerRepository("org/name", layer_name="Twice")


def answers():
    return [get_locked_kernel("org/name").answer, load_kernel("org/name").answer]
"""


def test_an_installed_package_loads_by_its_own_lock_and_requests_no_branch(
    hub: Hub, project: Path, tmp_path: Path, forks: Forks
) -> None:
    locked_at = hub.add("org/name", kernel_files("name"), branch="v1")
    require(project, '"org/name" = 1')
    assert run(project).exit_code == 0
    hub.add("org/name", kernel_files("name", source="answer = 1"), branch="v1")
    site = tmp_path / "site"
    metadata = site / "acme-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (metadata / "RECORD").write_text("acme.py,,\n")
    for name in ("kernels.lock", "kernels.lock.digests.json"):
        (metadata / name).write_text((project / name).read_text())
    (site / "acme.py").write_text(PACKAGE)
    program = f"""
import sys
sys.path.insert(0, {str(site)!r})
import acme
from kernels_core.plugins import registry
build = acme.layer.resolve(registry().backend("cpu"), 0)
result = [build.commit, *acme.answers()]
"""
    environment = client_environment(hub.endpoint, tmp_path / "elsewhere")
    environment["KERNELS_BACKEND"] = "cpu"
    hub.requests.clear()
    assert forks.start(program, environment).result() == [locked_at, 42, 42]
    assert hub.requests
    assert not any("refs" in request.path for request in hub.requests)
    hub.requests.clear()
    assert forks.start(program, environment).result() == [locked_at, 42, 42]
    assert hub.requests == []


def test_load_kernel_requests_nothing_for_a_locked_kernel_that_is_not_cached(
    hub: Hub, project: Path
) -> None:
    hub.add("org/name", kernel_files("name"), branch="v1")
    require(project, '"org/name" = 1')
    assert run(project).exit_code == 0
    forget()
    hub.forget()
    lockfile = project / "kernels.lock"
    with pytest.raises(errors.HubOfflineError, match="org/name"):
        load_kernel("org/name", lockfile=lockfile, backend="cpu")
    assert hub.requests == []
    get_locked_kernel("org/name", lockfile=lockfile, backend="cpu")
    hub.stop()
    assert load_kernel("org/name", lockfile=lockfile, backend="cpu").answer == 42


def test_hf_kernels_locks_the_same(hub: Hub, project: Path, fresh_python: Any) -> None:
    pytest.importorskip("kernels.locking", reason="needs Hugging Face kernels: pip install kernels")
    hub.add("org/base", kernel_files("base"), branch="v1")
    needs_base = [{"repo-id": "org/base", "version": 1}]
    hub.add("org/name", kernel_files("name", kernel_depends=needs_base), branch="v2")
    require(project, '"org/name" = 2')
    assert run(project).exit_code == 0
    ours = (project / "kernels.lock").read_text()
    program = f"""
import json
from argparse import Namespace
from pathlib import Path
from kernels.cli.lock import lock_kernels
lock_kernels(Namespace(project_dir=Path({str(project)!r})))
print(json.dumps(None))
"""
    fresh_python(program, HF_HUB_DISABLE_TELEMETRY="0")  # it fails without
    assert locked(project) == json.loads(ours)
    assert run(project, "--check").exit_code == 0
