"""The loopback Hub works for the real client and for Hugging Face `kernels`."""

from __future__ import annotations

import hashlib
import json
import time

import pytest
from hub_server import FAULTS, Hub, Request, kernel_files, longest_chain, round_trips
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

FILES = kernel_files(also={"weights.bin": b"\0\1" * 5000})


def api(hub: Hub) -> HfApi:
    return HfApi(endpoint=hub.endpoint)


def download(path: str = "build/torch-cpu/__init__.py", **settings) -> str:
    return hf_hub_download("org/activation", path, repo_type="kernel", **settings)


def test_refs(hub: Hub) -> None:
    first = hub.add("org/activation", FILES, branch="v1", tag="v0.0.1")
    second = hub.add("org/activation", FILES | {"README.md": "hi"}, tag="v0.0.2")
    refs = api(hub).list_repo_refs("org/activation", repo_type="kernel")
    assert first != second
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"v1": first, "main": second}
    assert {ref.name: ref.target_commit for ref in refs.tags} == {"v0.0.1": first, "v0.0.2": second}


def test_info_by_branch_tag_and_commit(hub: Hub) -> None:
    commit = hub.add("org/activation", FILES, tag="v0.0.1")
    for revision in (None, "main", "v0.0.1", commit):
        info = api(hub).kernel_info("org/activation", revision=revision)
        assert (info.id, info.sha) == ("org/activation", commit)


@pytest.mark.parametrize("page_size", [1, 2, 1000])
def test_tree_with_paging(hub: Hub, page_size: int) -> None:
    hub.add("org/activation", FILES, lfs=["*.bin"])
    hub.page_size = page_size
    entries = {
        entry.path: entry
        for entry in api(hub).list_repo_tree("org/activation", recursive=True, repo_type="kernel")
    }
    assert set(entries) == {"build", "build/torch-cpu", *FILES}
    assert len(hub.requests) == -(-len(entries) // page_size)
    source = entries["build/torch-cpu/layers.py"]
    content = FILES[source.path]
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    assert (source.blob_id, source.size, source.lfs) == (blob, len(content), None)
    weights = entries["build/torch-cpu/weights.bin"]
    assert weights.lfs.sha256 == hashlib.sha256(FILES[weights.path]).hexdigest()
    assert weights.size == weights.lfs.size == len(FILES[weights.path])


def test_tree_of_a_folder(hub: Hub) -> None:
    hub.add("org/activation", FILES | kernel_files(variant="torch-cuda") | {"README.md": "hi"})
    builds = api(hub).list_repo_tree("org/activation", "build", repo_type="kernel")
    assert [entry.path for entry in builds] == ["build/torch-cpu", "build/torch-cuda"]


@pytest.mark.parametrize("redirects", [False, True])
@pytest.mark.parametrize("lfs", [(), ("*.py", "*.bin")])
def test_files(hub: Hub, redirects: bool, lfs: tuple[str, ...]) -> None:
    commit = hub.add("org/activation", FILES, lfs=lfs)
    hub.redirects = redirects
    path = "build/torch-cpu/weights.bin"
    with open(download(path), "rb") as file:
        assert file.read() == FILES[path]
    assert [request.kind for request in hub.requests].count("head") == 1 + (redirects and not lfs)
    hub.forget()
    download(path, revision=commit)
    assert hub.requests == []


@pytest.mark.parametrize("redirects", [False, True])
def test_a_snapshot(hub: Hub, redirects: bool, tmp_path) -> None:
    hub.add("org/old", FILES, repo_type="model", lfs=["*.bin"])
    hub.redirects = redirects
    folder = snapshot_download("org/old", allow_patterns=["build/torch-cpu/*"])
    found = {path: (tmp_path / folder / path).read_bytes() for path in FILES}
    assert found == FILES
    assert {request.status for request in hub.requests} <= {200, 302, 307}


def test_organizations(hub: Hub) -> None:
    hub.add("org/activation", FILES)
    hub.add("unknown/activation", FILES, publisher_trusted=False)
    assert api(hub).get_organization_overview("org").trustedKernelPublisher is True
    assert api(hub).get_organization_overview("unknown").trustedKernelPublisher is False
    with pytest.raises(HfHubHTTPError) as caught:
        api(hub).get_organization_overview("nobody")
    assert caught.value.response.status_code == 404


def test_errors_have_their_codes(hub: Hub) -> None:
    hub.add("org/activation", FILES)
    with pytest.raises(RepositoryNotFoundError):
        api(hub).list_repo_refs("org/none", repo_type="kernel")
    with pytest.raises(RepositoryNotFoundError):  # there is none of this type
        api(hub).list_repo_refs("org/activation", repo_type="model")
    with pytest.raises(RevisionNotFoundError):
        list(api(hub).list_repo_tree("org/activation", repo_type="kernel", revision="v9"))
    with pytest.raises(RemoteEntryNotFoundError):
        download("build/none.py")


def test_a_server_that_went_away_comes_back_at_its_address(hub: Hub) -> None:
    hub.add("org/activation", FILES)
    refs = api(hub).list_repo_refs("org/activation", repo_type="kernel")
    address = hub.endpoint
    hub.stop()
    with pytest.raises(Exception, match=r"refused|disconnected|reset"):
        api(hub).list_repo_refs("org/activation", repo_type="kernel")
    hub.start()
    assert hub.endpoint == address
    assert api(hub).list_repo_refs("org/activation", repo_type="kernel") == refs


# Faults, seen without a client that retries or hides them.


def ask(hub: Hub, path: str, method: str = "GET", timeout: float = 10):
    import http.client

    address = hub.endpoint.removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=timeout)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


PATHS = {
    "refs": "/api/kernels/org/activation/refs",
    "info": "/api/kernels/org/activation/revision/main",
    "tree": "/api/kernels/org/activation/tree/main?recursive=True",
    "organization": "/api/organizations/org/overview",
    "head": "/kernels/org/activation/resolve/main/build/torch-cpu/__init__.py",
    "file": "/kernels/org/activation/resolve/main/build/torch-cpu/__init__.py",
}


def seen(hub: Hub, kind: str, timeout: float = 10) -> object:
    """What a sender of a kind of request sees."""
    try:
        response, body = ask(hub, PATHS[kind], "HEAD" if kind == "head" else "GET", timeout)
    except Exception as error:
        return type(error).__name__
    return response.status, response.headers["X-Repo-Commit"], body, len(response.headers)


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_strikes_once_and_only_its_kind_of_request(hub: Hub, fault: str, kind: str) -> None:
    commit = hub.add("org/activation", FILES)
    healthy = seen(hub, kind)
    other = "refs" if kind != "refs" else "tree"
    struck = hub.fault(fault, kind, seconds=0.3)
    assert isinstance(seen(hub, other), tuple)
    assert struck.hits == 0
    late = fault in ("stall", "stall-body", "latency")
    bad = seen(hub, kind, timeout=0.15 if late else 10)
    assert struck.hits == 1
    if fault in ("500", "503", "429"):
        assert isinstance(bad, tuple)
        assert bad[0] == int(fault)
    elif fault == "reset":
        assert bad == "ConnectionResetError"
    elif fault in ("stall", "latency") or (fault == "stall-body" and kind != "head"):
        assert bad == "TimeoutError"
    elif fault == "truncate":
        assert bad != healthy
    elif fault == "corrupt" and kind != "head":
        assert isinstance(bad, tuple)
        assert bad != healthy
        assert len(bad[2]) == len(healthy[2])
    elif fault == "wrong-commit" and healthy[1] is not None:
        assert healthy[1] == commit
        assert bad == (200, "f" * 40, *healthy[2:])
    assert seen(hub, kind) == healthy


def test_a_fault_can_stay_until_it_is_healed(hub: Hub) -> None:
    hub.add("org/activation", FILES)
    hub.fault("429", "refs", times=None, retry_after="7")
    for _ in range(3):
        response, _ = ask(hub, PATHS["refs"])
        assert (response.status, response.headers["Retry-After"]) == (429, "7")
    hub.heal()
    assert ask(hub, PATHS["refs"])[0].status == 200


def test_a_listing_can_go_on_forever(hub: Hub) -> None:
    hub.add("org/activation", FILES)
    hub.repository("org/activation").pages_forever = True
    hub.page_size = 10
    entries = api(hub).list_repo_tree("org/activation", recursive=True, repo_type="kernel")
    assert len({next(entries).path for _ in range(1000)}) == 1000


def spans(*times: tuple[float, float]) -> list[Request]:
    return [Request("GET", "/", "", "refs", {}, start, end) for start, end in times]


def test_what_overlaps_counts_once() -> None:
    assert longest_chain(spans()) == 0
    assert longest_chain(spans((0, 1), (0.1, 1.1), (0.2, 1.2))) == 1
    assert longest_chain(spans((0, 1), (1.1, 2), (0.5, 3), (2.5, 4))) == 3
    assert round_trips(spans((0, 1), (0.5, 1.5), (2, 3)), 0.5) == pytest.approx(5)


def test_latency_is_added_to_every_answer(hub: Hub) -> None:
    hub.add("org/activation", FILES)
    hub.latency = 0.05
    start = time.monotonic()
    download()
    assert [request.kind for request in hub.requests] == ["head", "file"]
    assert time.monotonic() - start >= 0.1
    assert longest_chain(hub.requests) == 2
    assert round_trips(hub.requests, hub.latency) >= 2


HF_KERNELS = """
import json
from kernels import get_kernel
module = get_kernel({repo_id!r}, {arguments}, backend='cpu')
print(json.dumps([module.answer, module.__file__]))
"""


@pytest.mark.parametrize("arguments", ["version=1", "revision='main'"])
def test_hugging_face_kernels_loads_a_kernel(hub: Hub, fresh_python, arguments: str) -> None:
    pytest.importorskip("kernels", reason="needs Hugging Face kernels: pip install kernels")
    commit = hub.add("org/activation", FILES, branch="v1")
    hub.add("org/activation", FILES)
    program = HF_KERNELS.format(repo_id="org/activation", arguments=arguments)
    # Without telemetry it sends a malformed header, which the client refuses.
    answer, file = fresh_python(program, HF_HUB_DISABLE_TELEMETRY="0")
    assert answer == 42
    assert commit in file
    assert {"organization", "tree", "head", "file"} <= {request.kind for request in hub.requests}
    assert json.loads(FILES["build/torch-cpu/metadata.json"])["license"]
