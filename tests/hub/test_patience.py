"""Waiting for the Hub: where it limits requests, and where its answers never end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_server import Hub, client_environment, forget, kernel_files
from hub_server.faults import DRIPS

from kernels_core import errors, get_kernel
from kernels_core.hub import transport
from kernels_core.hub.client import client
from kernels_core.hub.patience import stated_wait

LOAD = """
import logging
logging.basicConfig(format="%(message)s")
from kernels_core import get_kernel
print(get_kernel("org/name", version=1, backend="cpu").answer)
"""


def test_processes_wait_until_the_hub_answers_again(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/name", kernel_files("name"), branch="v1")
    # Eight processes send three requests each to the API.
    hub.limit, hub.window = 12, 2.0
    # On a busy machine, they do not send them at the same time.
    hub.fault("429", "refs", times=2, retry_after="1")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LOAD],
            env=os.environ | client_environment(hub.endpoint, tmp_path / str(number)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    results = [process.communicate(timeout=120) for process in processes]
    assert [output.strip() for output, _ in results] == ["42"] * 8, results
    lines = [line for _, log in results for line in log.splitlines()]
    waiting = [line for line in lines if line.startswith("Waiting ")]
    assert waiting
    assert all("limits requests (HTTP 429" in line for line in waiting)
    assert waiting == lines
    assert {request.status for request in hub.requests} == {200, 429}


def test_what_other_requests_heard_is_waited_for_before_the_next(hub: Hub) -> None:
    for number in range(6):
        hub.add(f"org/name{number}", kernel_files(f"name{number}"), branch="v1")
    hub.limit, hub.window = 4, 2.0
    for number in range(6):
        get_kernel(f"org/name{number}", version=1, backend="cpu")
    refused = [request for request in hub.requests if request.status == 429]
    # Of each window, no more than the requests that were on their way.
    assert 1 <= len(refused) <= 2 * len({int(request.started // 2) for request in hub.requests})


def test_the_patience_is_that_of_the_user(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/name", kernel_files("name"), branch="v1")
    hub.fault("429", "refs", times=None, retry_after="200")
    monkeypatch.setenv("KERNELS_HUB_PATIENCE", "100")
    start = time.monotonic()
    with pytest.raises(errors.HubUnreachableError, match=r"for 200 s.*KERNELS_HUB_PATIENCE"):
        get_kernel("org/name", version=1, backend="cpu")
    assert time.monotonic() - start < 60
    monkeypatch.setenv("KERNELS_HUB_PATIENCE", "long")
    with pytest.raises(errors.EnvironmentVariableError, match="'long' is not a number of seconds"):
        get_kernel("org/name", version=1, backend="cpu")


def test_the_requests_of_a_load_share_their_patience(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/name", kernel_files("name"), branch="v1")
    for kind in ("refs", "tree", "file"):
        hub.fault("429", kind, times=1, retry_after="2")
    monkeypatch.setenv("KERNELS_HUB_PATIENCE", "5")
    with pytest.raises(errors.HubUnreachableError, match="KERNELS_HUB_PATIENCE"):
        get_kernel("org/name", version=1, backend="cpu")


def test_a_server_that_refuses_again_and_again_is_asked_less_often(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/name", kernel_files("name"), branch="v1")
    hub.fault("429", "refs", times=None, retry_after="0")
    monkeypatch.setenv("KERNELS_HUB_PATIENCE", "6")
    with pytest.raises(errors.HubUnreachableError, match="KERNELS_HUB_PATIENCE"):
        get_kernel("org/name", version=1, backend="cpu")
    assert len([request for request in hub.requests if request.kind == "refs"]) <= 4


def test_what_is_in_the_cache_is_not_worth_a_long_wait(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    hub.add("org/name", kernel_files("name"), branch="v1")
    get_kernel("org/name", version=1, backend="cpu")
    for limit in ("30", None):
        forget()
        caplog.clear()
        hub.heal()
        hub.fault("429", "refs", times=None, retry_after=limit)
        hub.fault("429", "organization", times=None, retry_after=limit)
        start = time.monotonic()
        assert get_kernel("org/name", version=1, backend="cpu").answer == 42
        assert time.monotonic() - start < 25
        assert "Using the last known" in caplog.text


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "soon"}, None),
        ({"RateLimit": '"api";r=0;t=57'}, 57),
        ({"RateLimit": '"api"; r=0; t=57, "pages";r=12;t=290'}, 57),
        ({"RateLimit": '"pages";r=12;t=290'}, None),
        ({"RateLimit": '"api";r=0'}, None),
        ({"RateLimit": '"api";t=12;r=00'}, 12),
        ({"RateLimit": '"api";r=0;t=99999999999'}, None),
        ({"Retry-After": "", "RateLimit": '"api";r=0;t=3'}, 3),
        ({"Retry-After": "9", "RateLimit": '"api";r=0;t=3'}, 9),
    ],
)
def test_how_long_a_server_says_to_wait(headers: dict[str, str], expected: float | None) -> None:
    import httpx2

    assert stated_wait(httpx2.Response(429, headers=headers)) == expected


@pytest.mark.parametrize("kind", DRIPS)
def test_an_answer_that_never_ends_has_a_deadline(
    hub: Hub, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each piece arrives in time, so no time-out of the HTTP library ends this.
    monkeypatch.setattr(transport, "_LONGEST_ATTEMPT", 0.5)
    hub.fault(kind, "refs", times=None)
    start = time.monotonic()
    with pytest.raises(errors.HubUnreachableError, match="took longer than"):
        client().refs("org/name")
    assert time.monotonic() - start < 20
    assert (
        len([request for request in hub.requests if request.kind == "refs"]) == transport.ATTEMPTS
    )


@pytest.mark.parametrize("kind", DRIPS)
def test_a_download_that_hardly_moves_is_tried_again(
    hub: Hub, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/name", kernel_files("name"), branch="v1")
    monkeypatch.setattr(transport, "_LONGEST_ATTEMPT", 0.5)
    hub.fault(kind, "file", times=1)
    assert get_kernel("org/name", version=1, backend="cpu").answer == 42


def test_a_download_takes_as_long_as_bytes_arrive(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_LONGEST_ATTEMPT", 0.5)
    monkeypatch.setattr(transport, "_LEAST_BYTES", 100)
    hub.add("org/name", kernel_files("name", also={"weights.bin": b"\0" * 100_000}), branch="v1")
    hub.bandwidth = 50_000
    assert get_kernel("org/name", version=1, backend="cpu").answer == 42
    assert len([request for request in hub.requests if "weights" in request.path]) == 1
