"""`get_kernel` and its family: which commit, which build, trust, and which requests are sent."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hub_server import Hub, forget, kernel_files, longest_chain

from kernels_core import (
    errors,
    get_kernel,
    get_kernel_variants,
    get_loaded_kernels,
    has_kernel,
    install_kernel,
)
from kernels_core.hookspecs import Match
from kernels_core.plugins import Backend

REPOSITORY = "org/activation"
# Seconds. What a busy machine delays must not look like one request after another.
LATENCY = 0.2


def says(text: str, **also: Any) -> dict[str, bytes]:
    """A kernel whose module has this `answer`."""
    return kernel_files(source=f"answer = {text!r}", **also)


def files_requested(hub: Hub) -> list[str]:
    return [request.path for request in hub.requests if request.kind == "file"]


@pytest.fixture
def versions(hub: Hub) -> dict[str, str]:
    """A repository of both generations: commit by branch or tag."""
    commits = {
        tag: hub.add(REPOSITORY, says(tag), branch=None, tag=tag)
        for tag in ("v0.0.3", "v0.0.10", "v0.1.0", "v0.2.0rc1")
    }
    for branch in ("v1", "v2", "main"):
        commits[branch] = hub.add(REPOSITORY, says(branch), branch=branch)
    return commits


# Which commit


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ({}, "main"),
        ({"version": 1}, "v1"),
        ({"version": ">=0.0.3,<0.1"}, "v0.0.10"),
        ({"version": ">0.0.3"}, "v0.1.0"),
        ({"version": "==0.2.0rc1"}, "v0.2.0rc1"),
        ({"revision": "v2"}, "v2"),
        ({"revision": "v0.0.3"}, "v0.0.3"),
    ],
)
def test_the_version_or_revision_decides(
    versions: dict[str, str], arguments: dict[str, Any], answer: str
) -> None:
    assert get_kernel(REPOSITORY, **arguments).answer == answer
    assert get_loaded_kernels()[-1].build.commit == versions[answer]


def test_a_commit_needs_no_branches(hub: Hub, versions: dict[str, str]) -> None:
    assert get_kernel(REPOSITORY, revision=versions["v0.0.3"].upper()).answer == "v0.0.3"
    assert "refs" not in {request.kind for request in hub.requests}


def test_several_versions_live_beside_each_other(versions: dict[str, str]) -> None:
    modules = [get_kernel(REPOSITORY, version=version) for version in (1, 2, 1)]
    assert [module.answer for module in modules] == ["v1", "v2", "v1"]
    assert modules[0] is modules[2]


@pytest.mark.parametrize("arguments", [{"version": 3}, {"version": ">=9"}, {"revision": "v9"}])
def test_a_version_that_is_not_there_is_an_error_that_lists_what_is(
    versions: dict[str, str], arguments: dict[str, Any]
) -> None:
    with pytest.raises(errors.VersionNotFoundError, match=r"1.*v0\.0\.10"):
        get_kernel(REPOSITORY, **arguments)
    assert not has_kernel(REPOSITORY, **arguments)


def test_an_error_says_that_a_newer_version_has_a_build(hub: Hub) -> None:
    hub.add(REPOSITORY, kernel_files(variant="torch-abacus"), branch="v1")
    hub.add(REPOSITORY, kernel_files(variant="torch-abacus"), branch="v2")
    hub.add(REPOSITORY, kernel_files(), branch="v3")
    with pytest.raises(errors.NoFittingBuildError, match="newer version v3 has a build") as caught:
        get_kernel(REPOSITORY, version=1)
    (decision,) = caught.value.decisions
    assert "abacus" in decision.reason


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"repo_id": "activation"}, ValueError, "organization/name"),
        ({"repo_id": "../activation"}, ValueError, "organization/name"),
        ({"repo_id": 3}, TypeError, "repo_id"),
        ({"version": "0.0.3"}, ValueError, "==0.0.3"),
        ({"version": 1.5}, TypeError, "version"),
        ({"revision": 3}, TypeError, "revision"),
        ({"revision": "main", "version": 1}, ValueError, "not both"),
        ({"trust_remote_code": REPOSITORY}, TypeError, "trust_remote_code"),
    ],
)
def test_wrong_arguments_are_named_and_nothing_is_requested(
    hub: Hub, arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    for function in (get_kernel, has_kernel, install_kernel):
        with pytest.raises(error, match=says):
            function(**{"repo_id": REPOSITORY, **arguments})
    assert hub.requests == []


# Which repository, which build


def test_a_repository_of_the_older_type_and_layout(hub: Hub) -> None:
    files = {
        "build/torch-cpu/activation/__init__.py": b"from .ops import answer",
        "build/torch-cpu/activation/ops.py": b"answer = 'older'",
    }
    hub.add("org/activation", files, repo_type="model", tag="v0.0.1")
    assert get_kernel(REPOSITORY, version=">=0").answer == "older"
    forget()
    hub.forget()
    assert get_kernel(REPOSITORY, version=">=0").answer == "older"
    assert {r.path for r in hub.requests if r.kind == "refs"} == {f"/api/models/{REPOSITORY}/refs"}


def test_a_repository_that_is_not_there(hub: Hub) -> None:
    with pytest.raises(errors.HubNotFoundError) as caught:
        get_kernel("org/nothing")
    assert caught.value.missing == "repository"
    assert not has_kernel("org/nothing")


def test_a_repository_without_builds(hub: Hub) -> None:
    hub.add(REPOSITORY, {"README.md": "nothing yet"})
    with pytest.raises(errors.NoFittingBuildError, match="contains no builds"):
        get_kernel(REPOSITORY)


def test_only_the_files_of_the_chosen_build_are_fetched(hub: Hub) -> None:
    hub.add(REPOSITORY, says("best") | kernel_files(variant="torch-universal"))
    assert get_kernel(REPOSITORY).answer == "best"
    assert all("/torch-cpu/" in path for path in files_requested(hub))
    assert len(files_requested(hub)) == 2


def test_a_build_for_other_devices_gives_way(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def match_archs(backend: object, archs: object, facts: object) -> Match:
        return Match.no("this device has wooden beads")

    monkeypatch.setattr(Backend, "match_archs", match_archs)
    hub.add(
        REPOSITORY,
        says("for iron", backend={"type": "cpu", "archs": ["iron"]})
        | says("for all", variant="torch-universal"),
    )
    decisions = {decision.name: decision for decision in get_kernel_variants(REPOSITORY)}
    assert decisions["torch-cpu"].reason == "this device has wooden beads"
    assert decisions["torch-universal"].accepted
    assert [path for path in files_requested(hub) if path.endswith(".py")] == []
    assert get_kernel(REPOSITORY).answer == "for all"


def test_looking_at_a_repository_fetches_no_code(hub: Hub) -> None:
    hub.add(REPOSITORY, says("unused"), publisher_trusted=False)
    assert has_kernel(REPOSITORY)
    assert [decision.name for decision in get_kernel_variants(REPOSITORY)] == ["torch-cpu"]
    assert {Path(path).name for path in files_requested(hub)} == {"metadata.json"}
    assert "organization" not in {request.kind for request in hub.requests}


def test_has_kernel_does_not_take_a_failure_for_absence(hub: Hub) -> None:
    hub.add(REPOSITORY, says("there"))
    hub.stop()
    with pytest.raises(errors.HubUnreachableError, match="/refs"):
        has_kernel(REPOSITORY)


def test_installing_imports_nothing(hub: Hub) -> None:
    commit = hub.add(REPOSITORY, kernel_files(source="raise AssertionError"))
    path = install_kernel(REPOSITORY)
    assert path.parts[-3:] == (commit, "build", "torch-cpu")
    assert (path / "__init__.py").read_text() == "raise AssertionError"
    forget()
    hub.stop()
    assert install_kernel(REPOSITORY, local_files_only=True) == path


def test_missing_python_packages_are_named_before_import(hub: Hub) -> None:
    hub.add(REPOSITORY, says("never", python_depends=["no-such-package>=2"]))
    with pytest.raises(errors.DependencyError, match="pip install 'no-such-package>=2'"):
        get_kernel(REPOSITORY)


def test_a_directory_can_stand_in(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = tmp_path / "mine" / "build" / "torch-cpu"
    build.mkdir(parents=True)
    (build / "__init__.py").write_text("answer = 'mine'")
    entries = ("org/other=/nowhere", f"{REPOSITORY}={tmp_path / 'mine'}")
    monkeypatch.setenv("LOCAL_KERNELS", os.pathsep.join(entries))
    assert get_kernel(REPOSITORY, version=1).answer == "mine"
    assert has_kernel(REPOSITORY)
    assert [decision.name for decision in get_kernel_variants(REPOSITORY)] == ["torch-cpu"]
    assert hub.requests == []
    monkeypatch.setenv("LOCAL_KERNELS", "org/other")
    with pytest.raises(errors.EnvironmentVariableError, match="org/name=path"):
        get_kernel(REPOSITORY)


# Trust


def test_an_untrusted_kernel_is_not_fetched(hub: Hub) -> None:
    hub.add(REPOSITORY, says("evil"), publisher_trusted=False)
    with pytest.raises(errors.UntrustedError, match="trust_remote_code"):
        get_kernel(REPOSITORY)
    assert files_requested(hub) == []


@pytest.mark.parametrize("trusted", [True, [REPOSITORY], ["org"], ("other/kernel", REPOSITORY)])
def test_the_caller_may_trust_a_kernel(hub: Hub, trusted: Any) -> None:
    hub.add(REPOSITORY, says("fine"), publisher_trusted=False)
    assert get_kernel(REPOSITORY, trust_remote_code=trusted).answer == "fine"
    assert "organization" not in {request.kind for request in hub.requests}
    with pytest.raises(errors.UntrustedError):
        get_kernel(REPOSITORY, trust_remote_code=["other/kernel"])


def test_the_trust_list_may_allow_a_kernel(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.add(REPOSITORY, says("fine"), publisher_trusted=False)
    monkeypatch.setenv("KERNELS_TRUST", commit)
    assert get_kernel(REPOSITORY).answer == "fine"


def test_not_being_able_to_ask_is_not_trust(hub: Hub) -> None:
    hub.add(REPOSITORY, says("unknown"))
    hub.fault("500", "organization", times=None)
    with pytest.raises(errors.TrustUnknownError) as caught:
        get_kernel(REPOSITORY)
    assert isinstance(caught.value.__cause__, errors.HubUnreachableError)
    assert "trust_remote_code" not in str(caught.value)
    assert files_requested(hub) == []


def test_withdrawn_trust_counts_where_a_request_is_sent(hub: Hub) -> None:
    hub.add(REPOSITORY, says("fine"))
    get_kernel(REPOSITORY)
    hub.publishers["org"] = False
    forget()
    with pytest.raises(errors.UntrustedError):
        get_kernel(REPOSITORY)


# Requests


@pytest.mark.parametrize(("redirects", "most"), [(False, 5), (True, 6)])
def test_a_cold_load_takes_few_round_trips(hub: Hub, redirects: bool, most: int) -> None:
    hub.add(REPOSITORY, kernel_files(), tag="v0.0.1")
    hub.latency, hub.redirects = LATENCY, redirects
    assert get_kernel(REPOSITORY, version=">=0").answer == 42
    assert longest_chain(hub.requests) <= most - 2, "less than the target, and it should stay so"


def test_nothing_is_requested_twice_in_a_process(hub: Hub) -> None:
    hub.add(REPOSITORY, kernel_files(), tag="v0.0.1")
    first = get_kernel(REPOSITORY)
    assert len(hub.requests) == len({str(request) for request in hub.requests}) == 6
    hub.forget()
    assert get_kernel(REPOSITORY) is first
    assert get_kernel(REPOSITORY, version=">=0").answer == 42
    assert has_kernel(REPOSITORY)
    assert hub.requests == []


def test_a_new_process_asks_for_branches_only_and_of_commits_nothing(hub: Hub) -> None:
    commit = hub.add(REPOSITORY, kernel_files())
    hub.latency = LATENCY
    get_kernel(REPOSITORY)
    forget()
    hub.forget()
    get_kernel(REPOSITORY)
    assert sorted(request.kind for request in hub.requests) == ["organization", "refs"]
    assert longest_chain(hub.requests) == 1
    forget()
    hub.forget()
    get_kernel(REPOSITORY, revision=commit)
    assert hub.requests == []


@pytest.mark.parametrize("telemetry", [False, True])
def test_what_the_hub_learns_of_the_program(
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    reread_environment: Callable[[], None],
    telemetry: bool,
) -> None:
    from importlib.metadata import version

    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", str(int(not telemetry)))
    reread_environment()
    hub.add(REPOSITORY, kernel_files())
    get_kernel(REPOSITORY, user_agent={"app": "1"})
    agents = {request.headers["user-agent"] for request in hub.requests}
    ours = f"kernels-core/{version('kernels-core')}"
    if telemetry:
        assert agents == {f"{ours}; app/1", ours}
        assert all("python" not in agent and "torch" not in agent for agent in agents)
    else:
        assert all("kernels" not in agent and "app" not in agent for agent in agents)
    assert {request.kind for request in hub.requests} == {"refs", "organization", "tree", "file"}


def test_the_clients_token_is_used(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, reread_environment: Callable[[], None]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_for_the_test")
    reread_environment()
    hub.add(REPOSITORY, kernel_files())
    get_kernel(REPOSITORY)
    assert {r.headers["authorization"] for r in hub.requests} == {"Bearer hf_for_the_test"}


@pytest.mark.parametrize(
    ("variables", "token"),
    [
        ({"HOME": "relative", "USERPROFILE": "relative"}, "relative/.cache/huggingface/token"),
        ({"HOME": "$NOT_SET", "USERPROFILE": "$NOT_SET"}, "$NOT_SET/.cache/huggingface/token"),
        ({"HF_HOME": "$NOT_SET"}, "$NOT_SET/token"),
        ({"HOME": os.devnull, "USERPROFILE": os.devnull}, "token"),
    ],
)
def test_a_token_in_the_working_directory_is_not_the_users(
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    reread_environment: Callable[[], None],
    variables: dict[str, str],
    token: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path / "cache"))
    for name in ("HF_HOME", "XDG_CACHE_HOME", "HF_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    Path(token).parent.mkdir(parents=True, exist_ok=True)
    Path(token).write_text("hf_of_somebody")
    reread_environment()
    hub.add(REPOSITORY, kernel_files())
    get_kernel(REPOSITORY)
    assert not [request for request in hub.requests if "authorization" in request.headers]


def test_a_token_below_a_relative_path_that_was_chosen_is_used(
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    reread_environment: Callable[[], None],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", "here")
    Path("here").mkdir()
    Path("here", "token").write_text("hf_for_the_test")
    reread_environment()
    hub.add(REPOSITORY, kernel_files())
    get_kernel(REPOSITORY)
    assert {r.headers["authorization"] for r in hub.requests} == {"Bearer hf_for_the_test"}


def test_a_program_that_uses_directories_only_imports_no_client(fresh_python: Any) -> None:
    program = (
        "import sys, json, tempfile, pathlib\n"
        "from kernels_core import get_local_kernel\n"
        "build = pathlib.Path(tempfile.mkdtemp(), 'build', 'torch-cpu')\n"
        "build.mkdir(parents=True)\n"
        "(build / '__init__.py').write_text('answer = 42')\n"
        "assert get_local_kernel(build.parents[1]).answer == 42\n"
        "print(json.dumps('huggingface_hub' in sys.modules))"
    )
    assert fresh_python(program) is False
    assert "kernels_core" in sys.modules


# Other revisions that the Hub takes

REFS = ["refs/pr/1", "refs/convert/kernel", "refs/heads/feature/x", "feature/x", "refs/tags/a/b"]


@pytest.fixture
def refs(hub: Hub) -> str:
    """Each of `REFS` has a kernel of its own; returns the commit of the pull request."""
    for name in REFS[1:]:
        kind = name.split("/")[1] if name.startswith("refs/") else "heads"
        place = {"heads": "branch", "tags": "tag", "convert": "ref"}[kind]
        short = name if place == "ref" else name.removeprefix(f"refs/{kind}/")
        hub.add(REPOSITORY, says(short), **{"branch": None, place: short})
    return hub.add(REPOSITORY, says("refs/pr/1"), branch=None, ref="refs/pr/1")


@pytest.mark.parametrize("revision", REFS)
def test_a_full_ref_is_a_revision(hub: Hub, refs: str, revision: str) -> None:
    expected = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
    assert get_kernel(REPOSITORY, revision=revision).answer == expected
    assert has_kernel(REPOSITORY, revision=revision)
    asked = [request.path for request in hub.requests if request.kind == "info"]
    path = f"/api/kernels/{REPOSITORY}/revision/{quote(revision, safe='')}"
    assert asked == [path] * (revision in REFS[:2]), "only what is no branch or tag"


def test_the_first_digits_of_a_commit_are_what_the_hub_makes_of_them(hub: Hub, refs: str) -> None:
    assert get_kernel(REPOSITORY, revision=refs[:9]).answer == "refs/pr/1"
    assert get_loaded_kernels()[-1].build.commit == refs


@pytest.mark.parametrize(
    "revision",
    ["refs/pr/7", "refs/heads/pr/1", "abcdef0", "refs/pr/../pr/1", "refs/../../x", "refs/pr/1\n",
     "refs//pr/1", "refs/pr/1/", "refs/.hidden", "refs/pr/1?x=1", "refs\\pr\\1", "refs/a:b", ""],
)  # fmt: skip
def test_a_ref_that_is_not_there_or_none_is_an_error(hub: Hub, refs: str, revision: str) -> None:
    with pytest.raises(errors.VersionNotFoundError, match="has no branch or tag"):
        get_kernel(REPOSITORY, revision=revision)
    assert {request.path.count("..") for request in hub.requests} == {0}


@pytest.mark.parametrize("said", ["../../../evil", "main", "0" * 41, None])
def test_an_answer_that_is_no_commit_is_refused(hub: Hub, refs: str, said: object) -> None:
    body = json.dumps({"sha": said}).encode()
    hub.fault("corrupt", "info", times=None, change=lambda _: body)
    with pytest.raises(errors.HubAnswerError):
        get_kernel(REPOSITORY, revision="refs/pr/1")


def test_a_pull_request_that_got_a_commit_is_the_new_one(hub: Hub, refs: str) -> None:
    assert get_kernel(REPOSITORY, revision="refs/pr/1").answer == "refs/pr/1"
    hub.add(REPOSITORY, says("newer"), branch=None, ref="refs/pr/1")
    forget()
    assert get_kernel(REPOSITORY, revision="refs/pr/1").answer == "newer"
