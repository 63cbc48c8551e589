"""After one load with access to the Hub, the same program runs without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hub_server import Hub, forget, kernel_files
from hub_server.fixtures import reread

from kernels_core import (
    errors,
    get_kernel,
    get_kernel_variants,
    has_kernel,
    install_kernel,
)
from kernels_core.hub.cache import cache_root

REPOSITORY = "org/activation"
BASE = "org/base"

GoOffline = Callable[[str], None]


@pytest.fixture
def commit(hub: Hub) -> str:
    """The commit of a kernel that needs another."""
    hub.add(BASE, kernel_files("base", source="answer = 'base'"), branch="v1")
    source = """
        from kernels_core import get_kernel_dep
        answer = get_kernel_dep("org/base").answer
        """
    files = kernel_files(source=source, kernel_depends=[{"repo-id": BASE, "version": 1}])
    return hub.add(REPOSITORY, files, branch="v1", tag="v0.0.1", ref="refs/pr/1")


@pytest.fixture
def go_offline(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, reread_environment: Callable[[], None]
) -> GoOffline:
    """Make the Hub unreachable, and forget what was loaded."""

    def go(how: str) -> None:
        forget()
        hub.forget()
        if how == "server down":
            hub.stop()
        elif how == "503":
            hub.fault("503", times=None)
        else:
            monkeypatch.setenv("HF_HUB_OFFLINE", "1")
            reread_environment()

    return go


@pytest.mark.parametrize("how", ["HF_HUB_OFFLINE", "server down", "503"])
@pytest.mark.parametrize("by", ["version", "specifier", "branch", "pull request", "commit"])
def test_what_was_loaded_once_loads_without_the_hub(
    hub: Hub, commit: str, go_offline: GoOffline, how: str, by: str
) -> None:
    arguments: dict[str, Any] = {
        "version": {"version": 1},
        "specifier": {"version": ">=0.0.1"},
        "branch": {"revision": "v1"},
        "pull request": {"revision": "refs/pr/1"},
        "commit": {"revision": commit},
    }[by]
    first = get_kernel(REPOSITORY, **arguments)
    go_offline(how)
    module = get_kernel(REPOSITORY, **arguments)
    assert module is first
    assert module.answer == "base"
    assert has_kernel(REPOSITORY, **arguments)
    assert install_kernel(REPOSITORY, **arguments).is_dir()
    assert [decision.accepted for decision in get_kernel_variants(REPOSITORY, **arguments)] == [
        True
    ]
    if how == "HF_HUB_OFFLINE":
        assert hub.requests == []


def test_a_hub_that_is_down_is_not_waited_for_again_and_again(
    hub: Hub, commit: str, go_offline: GoOffline
) -> None:
    get_kernel(REPOSITORY, version=1)
    go_offline("503")
    get_kernel(REPOSITORY, version=1)
    paths = [request.path for request in hub.requests if request.kind == "refs"]
    assert len(paths) == 4, "twice for each of the two repositories"
    get_kernel(REPOSITORY, version=1)
    assert [r.path for r in hub.requests if r.kind == "refs"] == paths


def test_what_was_never_loaded_is_an_error_that_says_so(
    hub: Hub, commit: str, go_offline: GoOffline
) -> None:
    go_offline("HF_HUB_OFFLINE")
    for arguments in ({"version": 1}, {"revision": commit}):
        with pytest.raises(errors.HubOfflineError, match="HF_HUB_OFFLINE"):
            get_kernel(REPOSITORY, **arguments)
        with pytest.raises(errors.HubOfflineError):
            has_kernel(REPOSITORY, **arguments)


def test_no_request_is_made_where_only_local_files_are_allowed(hub: Hub, commit: str) -> None:
    with pytest.raises(errors.HubOfflineError, match="local_files_only is set"):
        install_kernel(REPOSITORY, version=1, local_files_only=True)
    path = install_kernel(REPOSITORY, version=1)
    forget()
    hub.forget()
    assert install_kernel(REPOSITORY, version=1, local_files_only=True) == path
    assert hub.requests == []


@pytest.mark.parametrize("how", ["HF_HUB_OFFLINE", "server down", "503"])
def test_only_what_the_hub_said_of_the_publisher_counts(
    hub: Hub, go_offline: GoOffline, how: str
) -> None:
    hub.add(REPOSITORY, kernel_files(), branch="v1", publisher_trusted=False)
    get_kernel(REPOSITORY, version=1, trust_remote_code=True)
    go_offline(how)
    with pytest.raises(errors.TrustUnknownError):
        get_kernel(REPOSITORY, version=1)
    assert get_kernel(REPOSITORY, version=1, trust_remote_code=True).answer == 42


def test_an_untrusted_publisher_stays_untrusted(hub: Hub, go_offline: GoOffline) -> None:
    hub.add(REPOSITORY, kernel_files(), branch="v1", publisher_trusted=False)
    with pytest.raises(errors.UntrustedError):
        get_kernel(REPOSITORY, version=1)
    get_kernel(REPOSITORY, version=1, trust_remote_code=True)
    go_offline("HF_HUB_OFFLINE")
    with pytest.raises(errors.UntrustedError):
        get_kernel(REPOSITORY, version=1)


def test_a_misspelt_repository_names_the_nearest_in_the_cache(
    hub: Hub, commit: str, go_offline: GoOffline
) -> None:
    get_kernel(REPOSITORY, version=1)
    with pytest.raises(errors.HubNotFoundError) as caught:
        get_kernel("org/activaton", version=1)
    text = str(caught.value)
    assert 0 < text.index("In the cache is org/activation: was that meant?") < text.index("log in")
    go_offline("HF_HUB_OFFLINE")
    with pytest.raises(errors.HubOfflineError, match="In the cache is org/activation"):
        get_kernel("org/activaton", version=1)


def test_a_cache_that_does_not_exist_is_named(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, go_offline: GoOffline
) -> None:
    monkeypatch.setenv("KERNELS_CACHE", "/no/such/cache")
    go_offline("HF_HUB_OFFLINE")
    with pytest.raises(
        errors.HubOfflineError, match=r"/no/such/cache \(KERNELS_CACHE\) does not exist"
    ):
        get_kernel(REPOSITORY, version=1)


@pytest.mark.parametrize("how", ["HF_HUB_OFFLINE", "server down"])
def test_another_hub_is_believed_about_versions_and_files_and_never_about_trust(
    hub: Hub,
    commit: str,
    monkeypatch: pytest.MonkeyPatch,
    go_offline: GoOffline,
    how: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    get_kernel(REPOSITORY, version=1)
    records = {path: path.read_bytes() for path in cache_root().rglob("kernels-core/*.json")}
    other = "http://127.0.0.1:9"
    monkeypatch.setenv("HF_ENDPOINT", other)
    go_offline(how)
    reread()
    for arguments in ({"version": 1}, {"revision": commit}, {"version": ">=0"}):
        with pytest.raises(errors.TrustUnknownError):
            get_kernel(REPOSITORY, **arguments)
        forget()
        assert get_kernel(REPOSITORY, **arguments, trust_remote_code=True).answer == "base"
        forget()
    said = [one.getMessage() for one in caplog.records if "is not taken from" in one.getMessage()]
    assert len(said) == 2  # for each kernel, the one that is needed too
    assert all(f"no answer of {other} is available, so what {hub.endpoint}" in one for one in said)
    # It does not become what this Hub said.
    assert records == {path: path.read_bytes() for path in records}


def test_a_failed_load_does_not_spoil_what_was_remembered(
    hub: Hub, commit: str, go_offline: GoOffline
) -> None:
    first = get_kernel(REPOSITORY, version=1)
    hub.add(REPOSITORY, kernel_files(source="answer = 'newer'"), branch="v1")
    hub.fault("500", "file", times=None)
    forget()
    with pytest.raises(errors.HubUnreachableError):
        get_kernel(REPOSITORY, version=1)
    go_offline("server down")
    assert get_kernel(REPOSITORY, version=1) is first
