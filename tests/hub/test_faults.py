"""Every fault at every request of a cold load: once, and for good.

All cases run in parallel when the first of these tests does, each in a process of its own and
against a Hub of its own, since most of what they do is wait.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest
from hub_server import FAULTS, Forks, Hub, Request, client_environment, kernel_files

FILES = kernel_files(also={"weights.bin": b"\0\1" * 3000})
REPOSITORY = "org/activation"

# Seconds. The second is what four attempts of at most `PATIENCE`, the waiting between them and for
# a server that limits requests, and a busy machine may take together.
PATIENCE = 1
BOUND = 30

# Loads the kernel and returns the outcome. An error that is not ours fails the case.
LOAD = f"""
import time
from pathlib import Path
from kernels_core import get_kernel
from kernels_core.errors import KernelsError

start = time.monotonic()
try:
    module = get_kernel({REPOSITORY!r}, version=1)
    package = Path(module.__file__).parent
    files = sorted(path.relative_to(package).as_posix() for path in package.rglob("*"))
    result = {{
        "answer": module.answer,
        "files": {{file: (package / file).read_bytes().hex() for file in files}},
    }}
except KernelsError as error:
    result = {{
        "error": type(error).__name__,
        "kinds": [kind.__name__ for kind in type(error).__mro__],
        "message": str(error),
        "request": getattr(error, "request", ""),
    }}
result["seconds"] = time.monotonic() - start
"""

PUBLISHED = {path.split("/", 2)[2]: content.hex() for path, content in FILES.items()}

# Requests whose answers are about no commit.
NO_COMMIT = ("organization", "refs")

# Of these, one that passes leads to a kernel. What corruption changes may look right at first.
PASSING = tuple(fault for fault in FAULTS if fault != "corrupt")


@attrs.frozen
class Case:
    """A fault at one request of a load, and its outcome."""

    fault: str
    stays: bool
    repo_type: str
    request: Request
    outcome: dict[str, Any]
    second: dict[str, Any] | None
    log: list[Request]

    def __str__(self) -> str:
        return f"{self.fault} at {self.request.line}?{self.request.query}"


def publish(hub: Hub, repo_type: str = "kernel") -> None:
    hub.add(REPOSITORY, FILES, branch="v1", repo_type=repo_type, lfs=["*.bin"])
    hub.page_size = 3  # the listing takes two pages
    hub.redirects = True


def is_loaded(outcome: dict[str, Any]) -> bool:
    """Whether the kernel is complete and as it was published."""
    return outcome.get("answer") == 42 and outcome["files"] == PUBLISHED


def same_as(request: Request) -> Callable[[Request], bool]:
    about = (request.method, request.path, request.query.replace("%20", "+"))
    return lambda other: (other.method, other.path, other.query.replace("%20", "+")) == about


class Loads:
    """Loads the kernel from a Hub in fresh processes that share a cache."""

    def __init__(self, forks: Forks, hub: Hub, home: Path) -> None:
        self._forks = forks
        self._environment = client_environment(hub.endpoint, home) | {
            "HF_HUB_ETAG_TIMEOUT": str(PATIENCE),
            "HF_HUB_DOWNLOAD_TIMEOUT": str(PATIENCE),
            "KERNELS_HUB_PATIENCE": "3",
        }

    def load(self) -> Any:
        return self._forks.start(LOAD, self._environment).result(BOUND)


def requests_of_a_load(forks: Forks, repo_type: str) -> list[Request]:
    """The requests of a load in which nothing goes wrong."""
    with Hub() as hub, tempfile.TemporaryDirectory() as home:
        publish(hub, repo_type)
        outcome = Loads(forks, hub, Path(home)).load()
        assert is_loaded(outcome), outcome
        return hub.requests


@pytest.fixture(scope="module")
def cold_load(forks: Forks) -> list[Request]:
    """The requests that load a kernel."""
    return requests_of_a_load(forks, "kernel")


@pytest.fixture(scope="module")
def search(forks: Forks) -> list[Request]:
    """The requests that find out that a repository is an older one; the others are as above."""
    return [request for request in requests_of_a_load(forks, "model") if request.kind == "refs"]


def strike(forks: Forks, fault: str, stays: bool, repo_type: str, request: Request) -> Case:
    """Load while a fault is active; when that fails, once more from a Hub without faults."""
    with Hub() as hub, tempfile.TemporaryDirectory() as home:
        publish(hub, repo_type)
        struck = hub.fault(
            fault,
            same_as(request),
            times=None if stays else 1,
            seconds=0.2 if fault == "latency" else BOUND,
            retry_after="1" if fault == "429" else None,
        )
        loads = Loads(forks, hub, Path(home))
        try:
            outcome = loads.load()
        except (AssertionError, TimeoutError) as error:
            outcome = {"error": "", "message": str(error), "seconds": BOUND}
        assert struck.hits, f"{fault} never struck {request.line}"
        log = hub.forget()
        hub.heal()
        second = None if is_loaded(outcome) else loads.load()
        return Case(fault, stays, repo_type, request, outcome, second, log)


@pytest.fixture(scope="module")
def matrix(forks: Forks, cold_load: list[Request], search: list[Request]) -> Iterator[list[Case]]:
    """All cases."""
    requests = [("kernel", request) for request in cold_load]
    requests += [("model", request) for request in search]
    with ThreadPoolExecutor(16) as pool:
        started = [
            pool.submit(strike, forks, fault, stays, *request)
            for fault, stays, request in itertools.product(FAULTS, (False, True), requests)
        ]
        yield [case.result() for case in started]


def of(matrix: list[Case], fault: str, stays: bool) -> list[Case]:
    return [case for case in matrix if (case.fault, case.stays) == (fault, stays)]


def test_a_cold_load_makes_every_kind_of_request(cold_load: list[Request]) -> None:
    lines = Counter(request.line for request in cold_load)
    assert {request.kind for request in cold_load} >= {"organization", "refs", "tree", "file"}
    assert {request.status for request in cold_load} == {200, 302, 307}
    assert max(lines.values()) == 2, "a listing takes two pages"


def test_an_older_repository_is_searched_for_in_two_places(search: list[Request]) -> None:
    assert [request.status for request in search] == [401, 200]


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_leads_to_a_verified_kernel(matrix: list[Case], fault: str) -> None:
    cases = of(matrix, fault, stays=False)
    failed = {str(case): case.outcome for case in cases if not is_loaded(case.outcome)}
    assert cases
    assert not failed


def test_content_that_was_changed_once_is_fetched_once_more(matrix: list[Case]) -> None:
    cases = [case for case in of(matrix, "corrupt", stays=False) if case.request.kind == "file"]
    sent = [case for case in cases if case.request.status == 200]
    failed = {str(case): case.outcome for case in cases if not is_loaded(case.outcome)}
    assert len(sent) == len(FILES)
    assert not failed


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("stays", [False, True])
def test_whatever_happens_ends_in_a_verified_kernel_or_one_of_our_errors(
    matrix: list[Case], fault: str, stays: bool
) -> None:
    for case in of(matrix, fault, stays):
        assert is_loaded(case.outcome) or "KernelsError" in case.outcome["kinds"], (
            case,
            case.outcome,
        )
        assert case.outcome["seconds"] < BOUND


def is_harmless(case: Case) -> bool:
    """Whether every answer that was used was complete and for the right commit."""
    if case.fault == "latency":
        return True
    if case.fault == "wrong-commit":
        return case.request.kind in NO_COMMIT or "/large-files/" in case.request.path
    if case.fault == "corrupt":
        return case.request.kind != "file" or case.request.status > 300
    # That there is no such repository is said in the head of the answer.
    return case.fault in ("truncate", "stall-body") and case.request.status == 401


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "latency"])
def test_a_fault_that_stays_is_an_error_that_names_the_request(
    matrix: list[Case], fault: str
) -> None:
    cases = [case for case in of(matrix, fault, stays=True) if not is_harmless(case)]
    assert cases
    for case in cases:
        assert "LoadError" in case.outcome.get("kinds", ()), (case, case.outcome)
        about = case.outcome["message"] + case.outcome["request"]
        assert any(name in about for name in names_of(case)), (case, case.outcome)


def names_of(case: Case) -> list[str]:
    """What an error may call the request that failed."""
    path = case.request.path
    if case.request.kind == "organization":
        return [path]
    if case.request.kind == "file":
        # A redirect is part of the request that was redirected. Which of those was to large-file
        # storage does not show in the path, and there is one such file.
        name = path.rpartition("/build/")[2]
        return [f"build/{name}" if "/build/" in path else "build/torch-cpu/weights.bin"]
    return [path]


def test_a_second_attempt_at_a_healthy_hub_works(matrix: list[Case]) -> None:
    cases = [case for case in matrix if case.second is not None]
    failed = {str(case): case.second for case in cases if not is_loaded(case.second or {})}
    assert cases
    assert not failed


def test_what_the_server_asks_to_wait_is_waited(matrix: list[Case]) -> None:
    for case in of(matrix, "429", stays=False):
        struck = next(request for request in case.log if request.status == 429)
        assert struck.ended is not None
        later = [
            request
            for request in case.log
            if request.kind == struck.kind and request.started > struck.ended
        ]
        again = [request for request in later if same_as(struck)(request)] or later
        assert again[0].started - struck.ended >= 0.95, case


def test_counts(
    matrix: list[Case], cold_load: list[Request], search: list[Request], capsys: Any
) -> None:
    """Prints the number of cases and their outcomes."""
    came = Counter(
        (
            "stays" if case.stays else "passes",
            "loaded" if is_loaded(case.outcome) else case.outcome["error"],
        )
        for case in matrix
    )
    faults, requests = len(FAULTS), len(cold_load) + len(search)
    assert len(matrix) == faults * 2 * requests
    slowest = max(case.outcome["seconds"] for case in matrix)
    second = [is_loaded(case.second) for case in matrix if case.second is not None]
    with capsys.disabled():
        print(f"\nfault matrix: {faults} faults at {requests} requests, {len(matrix)} cases")
        for (how, what), count in sorted(came.items()):
            print(f"  {how:6} {what:20} {count:4}")
        print(f"  slowest {slowest:.1f} s; second attempts: {sum(second)} of {len(second)} loaded")


# Waiting for the server, within bounds


@pytest.mark.parametrize("status", ["429", "503"])
@pytest.mark.parametrize("retry_after", ["3600", "Wed, 21 Oct 2065 07:28:00 GMT"])
def test_a_server_that_asks_for_a_long_pause_is_an_error_at_once(
    forks: Forks, tmp_path: Path, retry_after: str, status: str
) -> None:
    with Hub() as hub:
        publish(hub)
        hub.fault(status, "refs", times=None, retry_after=retry_after)
        outcome = Loads(forks, hub, tmp_path).load()
    assert outcome["seconds"] < 5
    assert "HubUnreachableError" in outcome["kinds"]
    assert "/refs" in outcome["request"]
    assert ("KERNELS_HUB_PATIENCE" in outcome["message"]) == (status == "429")


def test_a_date_to_retry_after_is_waited_for(forks: Forks, tmp_path: Path) -> None:
    with Hub() as hub:
        publish(hub)
        when = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 4))
        hub.fault("503", "refs", retry_after=when)
        outcome = Loads(forks, hub, tmp_path).load()
    assert is_loaded(outcome), outcome
    first, second = (request for request in hub.requests if request.kind == "refs")
    assert second.started - first.started > 0.9
