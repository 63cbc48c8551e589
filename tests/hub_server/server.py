"""The Hub: its repositories, its faults, and the answers to requests."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from hub_server.answers import Answer, content, error, invented_file, no_entry, no_repository, ok
from hub_server.faults import Fault
from hub_server.repositories import Commit, File, Repository
from hub_server.requests import Request
from hub_server.sockets import Server

_TYPES = {"kernels": "kernel", "models": "model"}


class Hub:
    """A Hub that listens on a port of the loopback interface.

    Attributes:
        endpoint: the value for `HF_ENDPOINT`.
        requests: the requests, in the order of arrival.
        latency: seconds added to every answer.
        redirects: whether small files are answered with a redirect (307) first, as the real Hub
            does. Large ones always are (302), to the storage of large files.
        page_size: how many entries a page of a listing holds.
        bandwidth: how many bytes of an answer are sent per second; 0 for all at once.
        limit: how many requests to the API a window has; 0 for no limit. What is more is answered
            as the real Hub does, with 429 and a `RateLimit` header.
        window: seconds of a window.
        faults: the faults; see `fault`.
        publishers: by organization, whether it is a trusted publisher of kernels.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.latency = 0.0
        self.redirects = False
        self.page_size = 1000
        self.bandwidth = 0
        self.limit = 0
        self.window = 300.0
        self._windows: dict[int, int] = {}  # number of a window: requests in it
        self.faults: list[Fault] = []
        self.publishers: dict[str, bool] = {}
        self._repositories: dict[tuple[str, str], Repository] = {}
        self._lock = threading.Lock()
        self._port = 0  # any free one at first, and the same for good
        self._server: Server | None = None
        self.start()

    def __enter__(self) -> Hub:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # Repositories

    def add(
        self,
        repo_id: str,
        files: Mapping[str, bytes | str],
        *,
        branch: str | None = "main",
        tag: str | None = None,
        ref: str | None = None,
        repo_type: str = "kernel",
        publisher_trusted: bool = True,
        lfs: Iterable[str] = (),
    ) -> str:
        """Commit files to a repository, which is made with its first commit; return the commit.

        `ref` is one that the Hub does not list, such as "refs/pr/1". `lfs` has patterns of the
        files in large-file storage.
        """
        key = repo_type, repo_id
        with self._lock:
            repository = self._repositories.setdefault(key, Repository(repo_id, repo_type))
            commit = repository.commit(files, lfs)
            if branch is not None:
                repository.branches[branch] = commit
            if tag is not None:
                repository.tags[tag] = commit
            if ref is not None:
                repository.others[ref] = commit
            self.publishers[repo_id.split("/")[0]] = publisher_trusted
        return commit

    def repository(self, repo_id: str, repo_type: str = "kernel") -> Repository:
        """A repository, to change it."""
        return self._repositories[repo_type, repo_id]

    # Faults

    def fault(
        self,
        kind: str,
        match: str | Callable[[Request], bool] = "",
        times: int | None = 1,
        **settings: Any,
    ) -> Fault:
        """Add a fault; see `Fault`. It is matched with all requests by default."""
        fault = Fault(kind, match, times, **settings)
        with self._lock:
            self.faults.append(fault)
        return fault

    def heal(self) -> None:
        """Remove all faults."""
        with self._lock:
            self.faults.clear()

    def forget(self) -> list[Request]:
        """Start an empty list of requests; returns the one until now."""
        with self._lock:
            requests, self.requests = self.requests, []
        return requests

    def stop(self) -> None:
        """Close the port: connections break, new ones are refused."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def start(self) -> None:
        """Open the port again, with the same number."""
        if self._server is None:
            self._server = Server(self._port, self)
            self._port = self._server.server_address[1]

    @property
    def endpoint(self) -> str:
        """The address."""
        return f"http://127.0.0.1:{self._port}"

    # Answers

    def begin(self, method: str, target: str, headers: Mapping[str, str]) -> Request:
        """Note that a request arrived."""
        path, _, query = target.partition("?")
        kind = next((kind for kind, route, _ in _ROUTES if route.fullmatch(path)), "unknown")
        if kind == "file" and method == "HEAD":
            kind = "head"
        lowered = {name.lower(): value for name, value in headers.items()}
        request = Request(method, path, query, kind, lowered, time.monotonic())
        with self._lock:
            self.requests.append(request)
        return request

    def strike(self, request: Request) -> Fault | None:
        """The fault that this request meets, if any."""
        with self._lock:
            return next((fault for fault in self.faults if fault.strikes(request)), None)

    def answer(self, request: Request) -> Answer:
        """The answer without a fault."""
        if self.limit and request.path.startswith("/api/"):
            now = time.monotonic()
            number = int(now // self.window)
            with self._lock:
                self._windows[number] = self._windows.get(number, 0) + 1
                left = self.limit - self._windows[number]
            if left < 0:
                reset = max(1, round((number + 1) * self.window - now))
                header = {"RateLimit": f'"api";r=0;t={reset}'}
                return error(429, "", "We had to rate limit your IP", **header)
        for _, route, answer in _ROUTES:
            match = route.fullmatch(request.path)
            if match:
                arguments = {name: unquote(text or "") for name, text in match.groupdict().items()}
                with self._lock:
                    return answer(self, request, **arguments)
        return error(404, "", f"There is nothing at {request.path}")

    def _find(self, plural: str, repo_id: str) -> Repository | None:
        return self._repositories.get((_TYPES[plural or "models"], repo_id))

    def _refs(self, request: Request, plural: str, repo_id: str) -> Answer:
        repository = self._find(plural, repo_id)
        return ok(repository.refs()) if repository else no_repository()

    def _info(self, request: Request, plural: str, repo_id: str, revision: str = "") -> Answer:
        found = self._commit(plural, repo_id, revision or "main")
        if isinstance(found, Answer):
            return found
        siblings = [{"rfilename": path} for path in found.files]
        return ok(
            {"id": repo_id, "sha": found.oid, "private": False, "siblings": siblings},
            **{"X-Repo-Commit": found.oid},
        )

    def _tree(
        self, request: Request, plural: str, repo_id: str, revision: str, path: str
    ) -> Answer:
        found = self._commit(plural, repo_id, revision)
        repository = self._find(plural, repo_id)
        if isinstance(found, Answer) or repository is None:
            return found if isinstance(found, Answer) else no_repository()
        query = parse_qs(request.query)
        recursive = query.get("recursive", [""])[0].lower() in ("true", "1")
        listing = found.listing(path.strip("/"), recursive=recursive)
        if listing is None:
            return no_entry(path, found.oid)
        listing += repository.more_entries
        start = int(query.get("cursor", ["0"])[0])
        end = start + self.page_size
        page = listing[start:end]
        headers = {"X-Repo-Commit": found.oid}
        target = f"{self.endpoint}{request.path}?recursive={recursive}&cursor={end}"
        if repository.next_page:
            target = repository.next_page
        elif repository.pages_forever:
            page = page or [invented_file(number) for number in range(start, end)]
        elif end >= len(listing):
            return ok(page, **headers)
        return ok(page, Link=f'<{target}>; rel="next"', **headers)

    def _file(
        self, request: Request, plural: str, repo_id: str, revision: str, path: str
    ) -> Answer:
        found = self._find_file(plural, repo_id, revision, path)
        if isinstance(found, Answer):
            return found
        commit, file = found
        linked = {
            "X-Repo-Commit": commit,
            "X-Linked-Etag": f'"{file.etag}"',
            "X-Linked-Size": str(len(file.content)),
        }
        if file.lfs:
            # On another host, as the real one: the client uses the headers of this answer.
            location = f"http://localhost:{self._port}/large-files/{file.sha256}"
            return Answer(302, {**linked, "Location": location})
        if self.redirects:
            plural = plural or "models"
            location = f"/api/resolve-cache/{plural}/{repo_id}/{commit}/{quote(path)}"
            return Answer(307, {**linked, "Location": location})
        return content(file, request, {"X-Repo-Commit": commit})

    def _small_file(
        self, request: Request, plural: str, repo_id: str, revision: str, path: str
    ) -> Answer:
        found = self._find_file(plural, repo_id, revision, path)
        if isinstance(found, Answer):
            return found
        commit, file = found
        return content(file, request, {"X-Repo-Commit": commit})

    def _find_file(
        self, plural: str, repo_id: str, revision: str, path: str
    ) -> tuple[str, File] | Answer:
        found = self._commit(plural, repo_id, revision)
        if isinstance(found, Answer):
            return found
        file = found.files.get(path)
        return no_entry(path, found.oid) if file is None else (found.oid, file)

    def _large_file(self, request: Request, sha256: str) -> Answer:
        for repository in self._repositories.values():
            for commit in repository.commits.values():
                for file in commit.files.values():
                    if file.lfs and file.sha256 == sha256:
                        return content(file, request, {})
        return error(404, "", "There is no such file")

    def _organization(self, request: Request, name: str) -> Answer:
        if name not in self.publishers:
            return error(404, "", "This organization does not exist")
        about = {"name": name, "fullname": name, "avatarUrl": "", "isVerified": False}
        return ok({**about, "trustedKernelPublisher": self.publishers[name]})

    def _telemetry(self, request: Request) -> Answer:
        return ok({})

    def _commit(self, plural: str, repo_id: str, revision: str) -> Commit | Answer:
        repository = self._find(plural, repo_id)
        if repository is None:
            return no_repository()
        return repository.find(revision) or error(
            404, "RevisionNotFound", f"Invalid rev id: {revision}"
        )


_REPOSITORY = r"(?P<repo_id>[^/]+/[^/]+)"
_API = rf"/api/(?P<plural>kernels|models)/{_REPOSITORY}"
_PATH = r"(?P<revision>[^/]+)/(?P<path>.+)"

# Kind of request, path, answer. The first that matches the whole path counts.
_ROUTES: tuple[tuple[str, re.Pattern[str], Callable[..., Answer]], ...] = (
    ("telemetry", re.compile(r"/api/agent-harnesses"), Hub._telemetry),
    (
        "organization",
        re.compile(r"/api/organizations/(?P<name>[^/]+)/overview"),
        Hub._organization,
    ),
    (
        "file",
        re.compile(rf"/api/resolve-cache/(?P<plural>kernels|models)/{_REPOSITORY}/{_PATH}"),
        Hub._small_file,
    ),
    ("refs", re.compile(rf"{_API}/refs"), Hub._refs),
    ("tree", re.compile(rf"{_API}/tree/(?P<revision>[^/]+)(?P<path>(?:/.*)?)"), Hub._tree),
    ("info", re.compile(rf"{_API}(?:/revision/(?P<revision>[^/]+))?"), Hub._info),
    ("file", re.compile(r"/large-files/(?P<sha256>[0-9a-f]{64})"), Hub._large_file),
    (
        "file",
        re.compile(rf"/(?:(?P<plural>kernels|models)/)?{_REPOSITORY}/resolve/{_PATH}"),
        Hub._file,
    ),
)
