"""`kernels-core cache` and `kernels-core trust`: what is in the cache, and why it is trusted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hub_server import Hub, forget, kernel_files

from kernels_core import get_kernel
from kernels_core.cli.main import main

CPU = "torch-cpu"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


def data(*arguments: str | Path) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def commits(hub: Hub) -> dict[str, str]:
    """Four commits that were loaded: by version twice, by commit, and of another kernel."""
    found = {}
    for source in ("answer = 1", "answer = 2"):
        found[source] = hub.add("org/name", kernel_files("name", source=source), branch="v1")
        get_kernel("org/name", version=1, backend="cpu")
        forget()
    found["locked"] = hub.add("org/name", kernel_files("name", source="answer = 3"), branch="v2")
    get_kernel("org/name", revision=found["locked"], backend="cpu")
    found["other"] = hub.add("org/other", kernel_files("other"), branch="v1", repo_type="model")
    get_kernel("org/other", version=1, backend="cpu")
    return found


def test_the_list_has_every_commit_with_its_names(hub: Hub, commits: dict[str, str]) -> None:
    rows = {row["commit"]: row for row in data("cache", "list")["kernels"]}
    shown = {commit: (row["repo_id"], row["names"], row["locked"]) for commit, row in rows.items()}
    assert shown == {
        commits["answer = 1"]: ("org/name", [], False),
        commits["answer = 2"]: ("org/name", ["v1"], False),
        commits["locked"]: ("org/name", [], True),
        commits["other"]: ("org/other", ["v1"], False),
    }
    assert all(row["builds"] == [CPU] and row["size"] > 0 for row in rows.values())
    text = run("cache", "list").output
    assert "by commit" in text
    assert max(map(len, text.splitlines()[:-1])) <= 80


def test_an_empty_cache_or_none_is_no_error(hub: Hub, tmp_path: Path) -> None:
    for command in ("list", "verify", "prune"):
        assert run("cache", command).exit_code == 0
    assert "There are no kernels in" in run("cache", "list").output


def test_a_damaged_build_is_found_and_nothing_else(
    hub: Hub, commits: dict[str, str], tmp_path: Path
) -> None:
    assert run("cache", "verify").exit_code == 0
    (path,) = tmp_path.glob(f"hf-home/hub/*/snapshots/{commits['other']}/build/*/__init__.py")
    content = path.read_bytes()
    path.resolve().write_bytes(bytes([content[0] ^ 1]) + content[1:])
    result = run("cache", "verify", "--json")
    assert result.exit_code == 1
    problems = {row["commit"]: row["problem"] for row in json.loads(result.stdout)["builds"]}
    assert [commit for commit, problem in problems.items() if problem] == [commits["other"]]
    assert "__init__.py" in problems[commits["other"]]
    assert run("cache", "verify", "org/name").exit_code == 0
    assert run("cache", "verify", "org/other").exit_code == 1
    hub.stop()  # no request is sent for any of this
    assert run("cache", "verify", "org/name").exit_code == 0


def test_what_nothing_names_is_removed_and_the_rest_still_loads(
    hub: Hub, commits: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = data("cache", "prune", "--dry-run")
    assert [row["commit"] for row in planned["removed"]] == [commits["answer = 1"]]
    assert planned["freed"] > 0
    assert len(data("cache", "list")["kernels"]) == 4
    assert data("cache", "prune")["freed"] == planned["freed"]
    assert len(data("cache", "list")["kernels"]) == 3
    assert data("cache", "prune")["removed"] == []
    hub.stop()
    forget()
    assert get_kernel("org/name", revision=commits["locked"], backend="cpu").answer == 3
    assert get_kernel("org/name", version=1, backend="cpu").answer == 2


@pytest.mark.parametrize("how", ["cache prune", "the client's"])
def test_what_was_unpacked_or_locked_is_not_removed(
    hub: Hub, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/name", kernel_files("name", source="answer = 1"), branch="v1")
    hub.add("org/name", kernel_files("name", source="answer = 2"), tag="v0.1.0", branch=None)
    bundle, unpacked = tmp_path / "bundle.tar", tmp_path / "unpacked"
    kernels = ["org/name@1", "org/name@==0.1.0"]
    assert run("bundle", bundle, *kernels, "--all-variants").exit_code == 0
    assert run("unbundle", bundle, unpacked).exit_code == 0
    monkeypatch.setenv("KERNELS_CACHE", str(unpacked))
    forget()
    if how == "cache prune":
        assert data("cache", "prune")["removed"] == []
    else:
        from huggingface_hub import scan_cache_dir

        (repository,) = scan_cache_dir(unpacked).repos
        assert all(revision.refs for revision in repository.revisions)
    hub.stop()
    assert get_kernel("org/name", version=1, backend="cpu").answer == 1
    assert get_kernel("org/name", version="==0.1.0", backend="cpu").answer == 2


def test_what_another_process_downloads_is_not_removed(
    hub: Hub, commits: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    new = hub.add("org/name", kernel_files("name", source="answer = 5"), branch="v5")
    hub.fault("stall-body", "file", times=None, seconds=30)
    program = "from kernels_core import get_kernel; get_kernel('org/name', version=5)"
    environment = os.environ | {"KERNELS_BACKEND": "cpu"}
    with subprocess.Popen([sys.executable, "-c", program], env=environment) as process:
        while not any(request.kind == "file" and new in request.path for request in hub.requests):
            assert process.poll() is None
            time.sleep(0.02)
        result = run("cache", "prune", "--json")
        process.kill()
    assert (result.exit_code, json.loads(result.stdout)["removed"]) == (0, [])
    assert "org/name stays as it is" in caplog.text
    assert len(data("cache", "prune")["removed"]) > 0


def test_a_branch_whose_name_no_file_may_have_is_kept(hub: Hub, tmp_path: Path) -> None:
    for branch in ("feature", "feature/x", "feature/x/y"):
        hub.add("org/name", kernel_files("name", source=f"answer = {branch!r}"), branch=branch)
        hub.repository("org/name").branches.pop("feature" if "/" in branch else "", None)
        forget()
        assert get_kernel("org/name", revision=branch, backend="cpu").answer == branch
    assert data("cache", "prune")["removed"] == []


def test_trust_is_explained(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commit = hub.add("org/name", kernel_files("name"), branch="v1")
    hub.add("who/name", kernel_files("name"), branch="v1", publisher_trusted=False)
    report = data("trust", "explain", "org/name@1")
    assert report == {
        "repo_id": "org/name",
        "commit": commit,
        "trusted": True,
        "reason": "the Hub trusts the publisher 'org'",
    }
    refused = run("trust", "explain", "who/name@1")
    assert refused.exit_code == 1
    assert "who/name is not trusted" in refused.output
    assert not list(tmp_path.glob("hf-home/hub/*/snapshots/*/build"))
    file = tmp_path / "trust.toml"
    file.write_text('publishers = ["who"]\n')
    monkeypatch.setenv("KERNELS_TRUST_FILE", str(file))
    monkeypatch.setenv("KERNELS_TRUST", f"org/name, {commit}")
    assert "names 'who'" in run("trust", "explain", "who/name@1").output
    assert data("trust", "list") == {
        "file": str(file),
        "entries": [
            {"entry": "who", "kind": "publisher", "source": str(file)},
            {"entry": "org/name", "kind": "repository", "source": "KERNELS_TRUST"},
            {"entry": commit, "kind": "commit", "source": "KERNELS_TRUST"},
        ],
    }
    assert run("trust", "explain", "org").exit_code == 2


def test_a_single_build_that_is_trusted_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("who/name", kernel_files("name"), branch="v1", publisher_trusted=False)
    refused = run("trust", "explain", "who/name@1")
    assert refused.exit_code == 1
    from kernels_core.hub.repository import HubRepository

    repository = HubRepository("who/name")
    (build,) = repository.builds(repository.pin(version=1).commit).values()
    monkeypatch.setenv("KERNELS_TRUST", build.digest)
    assert f"names its builds {CPU}" in run("trust", "explain", "who/name@1").output


def test_an_empty_trust_list_says_where_it_would_be(hub: Hub) -> None:
    assert "KERNELS_TRUST, is empty" in run("trust", "list").output
