"""The server: answers of a Hub, what goes wrong with them, and the sockets."""

from __future__ import annotations

import contextlib
import json
import re
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, quote, unquote

import attrs

from hub_server.faults import Fault
from hub_server.repositories import Commit, File, Repository
from hub_server.requests import Request

_TYPES = {"kernels": "kernel", "models": "model"}
_WRONG_COMMIT = "f" * 40


@attrs.frozen
class Answer:
    """What the server says."""

    status: int
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: bytes = b""


def _json(value: object, **headers: str) -> Answer:
    return Answer(200, {"Content-Type": "application/json", **headers}, json.dumps(value).encode())


def _error(status: int, code: str, message: str, **headers: str) -> Answer:
    named = {"X-Error-Code": code} if code else {}
    body = json.dumps({"error": message}).encode()
    about = {"Content-Type": "application/json", "X-Error-Message": message}
    return Answer(status, {**about, **named, **headers}, body)


class Hub:
    """A Hub that listens on a port of the loopback interface.

    Attributes:
        endpoint: what `HF_ENDPOINT` must say.
        requests: what was asked, in the order of arrival.
        latency: seconds added to every answer.
        redirects: whether small files are answered with a redirect (307) first, as the real Hub
            does. Large ones always are (302), to where large files are stored.
        page_size: how many entries a page of a listing holds.
        faults: what goes wrong; see `fault`.
        publishers: by organization, whether the Hub calls it a trusted publisher of kernels.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.latency = 0.0
        self.redirects = False
        self.page_size = 1000
        self.faults: list[Fault] = []
        self.publishers: dict[str, bool] = {}
        self._repositories: dict[tuple[str, str], Repository] = {}
        self._lock = threading.Lock()
        self._port = 0  # any free one at first, and the same for good
        self._server: _Server | None = None
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

    # What is on it

    def add(
        self,
        repo_id: str,
        files: Mapping[str, bytes | str],
        *,
        branch: str | None = "main",
        tag: str | None = None,
        repo_type: str = "kernel",
        publisher_trusted: bool = True,
        lfs: Iterable[str] = (),
    ) -> str:
        """Commit files to a repository, which comes into being with its first commit.

        Args:
            repo_id: "org/name".
            files: all files of the commit, by path.
            branch: the branch that points to it; None for none.
            tag: a tag that points to it.
            repo_type: "kernel", or "model" for older repositories.
            publisher_trusted: whether the Hub calls the organization a trusted publisher.
            lfs: patterns of the files that lie in large-file storage.

        Returns:
            The commit.
        """
        key = repo_type, repo_id
        with self._lock:
            repository = self._repositories.setdefault(key, Repository(repo_id, repo_type))
            commit = repository.commit(files, lfs)
            if branch is not None:
                repository.branches[branch] = commit
            if tag is not None:
                repository.tags[tag] = commit
            self.publishers[repo_id.split("/")[0]] = publisher_trusted
        return commit

    def repository(self, repo_id: str, repo_type: str = "kernel") -> Repository:
        """A repository, to change it."""
        return self._repositories[repo_type, repo_id]

    # What happens to it

    def fault(
        self,
        kind: str,
        match: str | Callable[[Request], bool] = "",
        times: int | None = 1,
        **settings: Any,
    ) -> Fault:
        """Let something go wrong.

        Args:
            kind: one of `FAULTS`.
            match: with which requests: a kind of request such as "refs", a "METHOD path", a
                function, or "" for all.
            times: how often; None for always.
            settings: see `Fault`.
        """
        fault = Fault(kind, match, times, **settings)
        with self._lock:
            self.faults.append(fault)
        return fault

    def heal(self) -> None:
        """Let nothing go wrong any more."""
        with self._lock:
            self.faults.clear()

    def forget(self) -> list[Request]:
        """Start an empty list of requests; returns the one until now."""
        with self._lock:
            requests, self.requests = self.requests, []
        return requests

    def stop(self) -> None:
        """Go away: connections break, new ones are refused."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def start(self) -> None:
        """Come back, at the same port."""
        if self._server is None:
            self._server = _Server(self._port, self)
            self._port = self._server.server_address[1]

    @property
    def endpoint(self) -> str:
        """The address."""
        return f"http://127.0.0.1:{self._port}"

    # What it answers

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
        """What a Hub in good health says."""
        for _, route, answer in _ROUTES:
            match = route.fullmatch(request.path)
            if match:
                arguments = {name: unquote(text or "") for name, text in match.groupdict().items()}
                with self._lock:
                    return answer(self, request, **arguments)
        return _error(404, "", f"There is nothing at {request.path}")

    def _find(self, plural: str, repo_id: str) -> Repository | None:
        return self._repositories.get((_TYPES[plural or "models"], repo_id))

    def _refs(self, request: Request, plural: str, repo_id: str) -> Answer:
        repository = self._find(plural, repo_id)
        return _json(repository.refs()) if repository else _no_repository()

    def _info(self, request: Request, plural: str, repo_id: str, revision: str = "") -> Answer:
        found = self._commit(plural, repo_id, revision or "main")
        if isinstance(found, Answer):
            return found
        siblings = [{"rfilename": path} for path in found.files]
        return _json(
            {"id": repo_id, "sha": found.oid, "private": False, "siblings": siblings},
            **{"X-Repo-Commit": found.oid},
        )

    def _tree(
        self, request: Request, plural: str, repo_id: str, revision: str, path: str
    ) -> Answer:
        found = self._commit(plural, repo_id, revision)
        if isinstance(found, Answer):
            return found
        query = parse_qs(request.query)
        recursive = query.get("recursive", [""])[0].lower() in ("true", "1")
        listing = found.listing(path.strip("/"), recursive=recursive)
        if listing is None:
            return _no_entry(path, found.oid)
        start = int(query.get("cursor", ["0"])[0])
        page = listing[start : start + self.page_size]
        end = start + self.page_size
        headers = {"X-Repo-Commit": found.oid}
        repository = self._find(plural, repo_id)
        if repository and repository.pages_forever:
            page = page or [_invented_file(number) for number in range(start, end)]
        elif end >= len(listing):
            return _json(page, **headers)
        target = f"{self.endpoint}{request.path}?recursive={recursive}&cursor={end}"
        return _json(page, Link=f'<{target}>; rel="next"', **headers)

    def _file(
        self, request: Request, plural: str, repo_id: str, revision: str, path: str
    ) -> Answer:
        found = self._commit(plural, repo_id, revision)
        if isinstance(found, Answer):
            return found
        file = found.files.get(path)
        if file is None:
            return _no_entry(path, found.oid)
        linked = {
            "X-Repo-Commit": found.oid,
            "X-Linked-Etag": f'"{file.etag}"',
            "X-Linked-Size": str(len(file.content)),
        }
        if file.lfs:
            # On another host, as the real one: the client then takes what it needs from here.
            location = f"http://localhost:{self._port}/large-files/{file.sha256}"
            return Answer(302, {**linked, "Location": location})
        if self.redirects:
            plural = plural or "models"
            location = f"/api/resolve-cache/{plural}/{repo_id}/{found.oid}/{quote(path)}"
            return Answer(307, {**linked, "Location": location})
        return _content(file, request, {"X-Repo-Commit": found.oid})

    def _small_file(
        self, request: Request, plural: str, repo_id: str, revision: str, path: str
    ) -> Answer:
        found = self._commit(plural, repo_id, revision)
        if isinstance(found, Answer):
            return found
        file = found.files.get(path)
        if file is None:
            return _no_entry(path, found.oid)
        return _content(file, request, {"X-Repo-Commit": found.oid})

    def _large_file(self, request: Request, sha256: str) -> Answer:
        for repository in self._repositories.values():
            for commit in repository.commits.values():
                for file in commit.files.values():
                    if file.lfs and file.sha256 == sha256:
                        return _content(file, request, {})
        return _error(404, "", "There is no such file")

    def _organization(self, request: Request, name: str) -> Answer:
        if name not in self.publishers:
            return _error(404, "", "This organization does not exist")
        about = {"name": name, "fullname": name, "avatarUrl": "", "isVerified": False}
        return _json({**about, "trustedKernelPublisher": self.publishers[name]})

    def _telemetry(self, request: Request) -> Answer:
        return _json({})

    def _commit(self, plural: str, repo_id: str, revision: str) -> Commit | Answer:
        repository = self._find(plural, repo_id)
        if repository is None:
            return _no_repository()
        return repository.find(revision) or _error(
            404, "RevisionNotFound", f"Invalid rev id: {revision}"
        )


def _no_repository() -> Answer:
    # The real Hub does not tell strangers whether a repository is private or not there.
    return _error(401, "RepoNotFound", "Repository not found")


def _no_entry(path: str, commit: str) -> Answer:
    return _error(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": commit})


def _invented_file(number: int) -> dict[str, object]:
    return File(str(number).encode()).entry(f"build/torch-cpu/more_{number}.py")


def _content(file: File, request: Request, headers: Mapping[str, str]) -> Answer:
    about = {
        **headers,
        "Content-Type": "application/octet-stream",
        "Accept-Ranges": "bytes",
        "ETag": f'"{file.etag}"',
    }
    asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
    if asked is None:
        return Answer(200, about, file.content)
    start, size = int(asked[1]), len(file.content)
    if start >= size:
        return Answer(416, {"Content-Range": f"bytes */{size}"})
    about["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
    return Answer(206, about, file.content[start:])


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


class _Server(ThreadingHTTPServer):
    """The listening socket, and the connections that came through it."""

    daemon_threads = True
    request_queue_size = 128  # or a burst of connections waits a second for its second try

    def __init__(self, port: int, hub: Hub):
        super().__init__(("127.0.0.1", port), _Handler)
        self.hub = hub
        self.closing = threading.Event()
        self.connections: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and break all connections."""
        self.closing.set()
        self.shutdown()
        self.server_close()
        self._thread.join()
        for connection in list(self.connections):
            _shut_down(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none of ours; anything else is shown."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def _shut_down(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed already
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        """Answer a request."""
        hub = self.server.hub
        request = hub.begin(self.command, self.path, dict(self.headers.items()))
        try:
            fault = hub.strike(request)
            answer = hub.answer(request)
            if fault is not None:
                answer = _changed(answer, fault)
            wait = hub.latency + (fault.seconds if fault and fault.kind == "latency" else 0.0)
            if wait and self.server.closing.wait(wait):
                self.close_connection = True
                return
            self._send(request, answer, fault.kind if fault else "", fault)
        finally:
            request.ended = time.monotonic()

    do_HEAD = do_GET  # noqa: N815 - the name that the library looks for

    def _send(self, request: Request, answer: Answer, kind: str, fault: Fault | None) -> None:
        head, body = self._encode(answer)
        if self.command == "HEAD":
            body = b""
        if kind == "reset":
            # Lingering for no time at all makes the kernel send a reset instead of an end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        whole = head + body
        if kind in ("truncate", "stall-body"):
            whole = whole[: len(head) + len(body) // 2] if body else head[: len(head) // 2]
        if kind != "stall":
            # At once: a header of its own would wait for the client's acknowledgement.
            self.connection.sendall(whole)
        if kind in ("stall", "stall-body"):
            assert fault is not None
            self._wait_for_client(fault.seconds)
        if kind in ("truncate", "stall", "stall-body"):
            self.close_connection = True
            _shut_down(self.connection)
        else:
            request.status = answer.status

    def _encode(self, answer: Answer) -> tuple[bytes, bytes]:
        phrase = self.responses.get(answer.status, ("",))[0]
        headers = {"Content-Length": str(len(answer.body)), **answer.headers}
        lines = [f"HTTP/1.1 {answer.status} {phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1"), answer.body

    def _wait_for_client(self, seconds: float) -> None:
        """Wait until the client has had enough and closes, or the time is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.server.closing.is_set():
            if select.select([self.connection], [], [], 0.02)[0]:
                return

    def log_message(self, *args: object) -> None:
        """Say nothing: `Hub.requests` is the log."""


def _changed(answer: Answer, fault: Fault) -> Answer:
    """The answer as the fault lets it be."""
    if fault.kind in ("500", "503", "429"):
        retry = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
        return _error(int(fault.kind), "", "Something went wrong", **retry)
    if fault.kind == "corrupt" and answer.body:
        return attrs.evolve(answer, body=fault.change(answer.body))
    if fault.kind == "wrong-commit" and "X-Repo-Commit" in answer.headers:
        return attrs.evolve(answer, headers={**answer.headers, "X-Repo-Commit": _WRONG_COMMIT})
    return answer
