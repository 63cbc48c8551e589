"""One request to the Hub: a deadline, a bounded retry with backoff, errors that say what failed.

The time-outs of the HTTP library bound each step of a response, and a server that sends a byte per
second never exceeds one. So an attempt runs in a thread of its own, and is given up when it takes
too long as a whole, or when nobody waits for it any more.

The session is the Hub client's own, with its proxies, certificates and offline switch. The client
has time-outs and retries for some calls only; here all requests have them.
"""

from __future__ import annotations

import functools
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import urlsplit

import attrs

from kernels_core.errors import (
    HubAnswerError,
    HubError,
    HubNotFoundError,
    HubOfflineError,
    HubRefusedError,
    HubUnreachableError,
)
from kernels_core.hub.patience import VARIABLE, limits, one_load, stated_wait
from kernels_core.hub.progress import show_waiting
from kernels_core.parallel import apart, pause

if TYPE_CHECKING:
    from httpx2 import Response

T = TypeVar("T")

ATTEMPTS = 4
_FIRST_WAIT = 0.25  # seconds; doubles with each attempt
# A server that asks for a longer wait, but does not limit requests, is down.
_LONGEST_WAIT = 60.0
_SHORT_WAIT = 5.0
# How long an attempt may take; a download, how long it may take for the least number of bytes.
_LONGEST_ATTEMPT = 60.0
_LEAST_BYTES = 64 * 1024

_MISSING = {
    "RepoNotFound": "repository",
    "RevisionNotFound": "revision",
    "EntryNotFound": "entry",
}

_LOGIN = (
    "If it is private or gated, log in with 'hf auth login' or set HF_TOKEN to a token that has "
    "access."
)


@attrs.frozen
class Request:
    """A GET request.

    Attributes:
        url: the address.
        repository: the repository it is about, for errors.
        params: the query.
        headers: headers beside those of every request.
        agent: added to the user agent.
        timeout: how long to wait for each step of a response, in seconds.
        received: for a download, which may take as long as bytes arrive: the number of bytes that
            there are already.
    """

    url: str
    repository: str
    params: Mapping[str, str] = attrs.field(factory=dict)
    headers: Mapping[str, str] = attrs.field(factory=dict)
    agent: str = ""
    timeout: float = 10.0
    received: Callable[[], int] | None = None

    @property
    def server(self) -> str:
        """The server that it is sent to."""
        return urlsplit(self.url).netloc

    def __str__(self) -> str:
        return f"GET {self.url}"


class TransientError(Exception):
    """A failure that may not happen again in another attempt.

    Attributes:
        wait: the wait before the next attempt that the server requests, if it does.
        lasting: what it becomes when every attempt fails.
    """

    def __init__(
        self,
        reason: str,
        wait: float | None = None,
        lasting: type[HubError] = HubUnreachableError,
    ) -> None:
        super().__init__(reason)
        self.wait = wait
        self.lasting = lasting


class _LimitedError(TransientError):
    """The server limits requests."""


class _GivenUpError(Exception):
    """Raised in an attempt that nobody waits for any more."""


class Answer:
    """A response whose body is read in chunks.

    Attributes:
        response: the response; its own body must not be read.
    """

    response: Response

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given_up = False
        self._arrived = 0

    def chunks(self) -> Iterator[bytes]:
        """The body as it arrives. What is done with a chunk is done before it can be given up."""
        # As they arrive: a larger one would be lost if the connection broke within it.
        for chunk in self.response.iter_bytes():
            with self._lock:
                if self._given_up:
                    raise _GivenUpError
                self._arrived += len(chunk)
                yield chunk

    def take_arrived(self) -> int:
        """The number of bytes that arrived since the last call."""
        arrived, self._arrived = self._arrived, 0
        return arrived

    def give_up(self) -> None:
        """Do nothing with later chunks."""
        with self._lock:
            self._given_up = True


def fetch(request: Request, read: Callable[[Answer], T], *, attempts: int = ATTEMPTS) -> T:
    """Send a request, and repeat it while its failure is transient.

    `read` makes the result of the response, whose body is not read yet. Raises a `HubError`: of the
    class that fits what the Hub said, or `HubUnreachableError` when every attempt failed.
    """
    # With fewer attempts, there is another answer: that of the Hub is not worth a long wait.
    longest = math.inf if attempts >= ATTEMPTS else _SHORT_WAIT
    with one_load():
        show_waiting()
        failed = limited = 0
        while True:
            if not limits.wait(request.server, longest):
                error: TransientError = _LimitedError("the server limits requests")
                raise _lasting(request, error, failed)
            try:
                return _try(request, read)
            except _LimitedError as error:
                # Does not count as a failure: the wait is bounded by the user's patience.
                # A server that refuses again after the time that it stated is asked less often.
                wait = min(2.0**limited, _LONGEST_WAIT)
                if error.wait is not None:
                    wait = max(error.wait, wait if limited else 0.0)
                limited += 1
                if wait > longest or not limits.hold(request.server, wait, str(error)):
                    raise _lasting(request, error, failed + 1) from error.__cause__
            except TransientError as error:
                failed += 1
                # Jitter: many processes that failed together should not retry together.
                backoff = _FIRST_WAIT * 2 ** (failed - 1) * random.uniform(0.75, 1.25)
                wait = backoff if error.wait is None else error.wait
                if failed >= attempts or wait > _LONGEST_WAIT:
                    raise _lasting(request, error, failed) from error.__cause__
                pause(wait)


def _try(request: Request, read: Callable[[Answer], T]) -> T:
    answer = Answer()
    start = request.received() if request.received else 0
    headers = {**request.headers, "range": f"bytes={start}-"} if start else request.headers
    try:
        return apart(lambda: _send(request, headers, answer, read), _deadline(request, answer))
    except BaseException:
        answer.give_up()
        raise


def _deadline(request: Request, answer: Answer) -> Callable[[], None]:
    """What raises once an attempt takes too long."""
    window = time.monotonic()

    def check() -> None:
        nonlocal window
        if time.monotonic() - window < _LONGEST_ATTEMPT:
            return
        arrived = answer.take_arrived()
        if request.received is None:
            raise TransientError(f"the response took longer than {_LONGEST_ATTEMPT:.0f} s")
        if arrived < _LEAST_BYTES:
            raise TransientError(f"only {arrived} bytes arrived in {_LONGEST_ATTEMPT:.0f} s")
        window = time.monotonic()

    return check


def _send(
    request: Request, headers: Mapping[str, str], answer: Answer, read: Callable[[Answer], T]
) -> T:
    from huggingface_hub import get_session
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    # The base of everything that the HTTP library raises, whichever library this client uses.
    http_error: type[BaseException] = HfHubHTTPError.__bases__[0]
    try:
        with get_session().stream(
            "GET",
            request.url,
            params=dict(request.params) or None,
            headers={**_common_headers(request.agent), **headers},
            timeout=request.timeout,
            follow_redirects=True,
        ) as response:
            if response.status_code >= 400:
                _refuse(request, response)
            answer.response = response
            return read(answer)
    except OfflineModeIsEnabled as error:
        raise offline(request) from error
    except http_error as error:
        raise TransientError(f"{type(error).__name__}: {error}".rstrip(": ")) from error


def offline(request: object, repository: str | None = None) -> HubOfflineError:
    """The error for a request that is not sent because of HF_HUB_OFFLINE."""
    return HubOfflineError(
        f"HF_HUB_OFFLINE is set, so this request was not sent: {request}.",
        repository=repository or getattr(request, "repository", ""),
        request=str(request),
    )


def read_all(answer: Answer, limit: int) -> bytes:
    """The body of a response; raises HubAnswerError when it is larger than `limit` bytes."""
    body = bytearray()
    for chunk in answer.chunks():
        body += chunk
        if len(body) > limit:
            url = answer.response.request.url
            raise HubAnswerError(
                f"The response to GET {url} is larger than {limit} bytes.",
                repository="",
                request=f"GET {url}",
            )
    return bytes(body)


def _refuse(request: Request, response: Response) -> NoReturn:
    status, code = response.status_code, response.headers.get("X-Error-Code", "")
    said = response.headers.get("X-Error-Message") or response.reason_phrase
    if status in (408, 425, 429) or status >= 500:
        transient = _LimitedError if status == 429 else TransientError
        raise transient(f"HTTP {status} {said}".strip(), stated_wait(response))
    answer = f"The Hub answered HTTP {status} ({code or said or 'no reason given'}) to {request}"
    raise _refusal(request, status, code, answer)


def _refusal(request: Request, status: int, code: str, answer: str) -> HubError:
    about: dict[str, Any] = {"repository": request.repository, "request": str(request)}
    if missing := _MISSING.get(code, "repository" if status == 404 and not code else None):
        hint = f" {_LOGIN}" if missing == "repository" else ""
        return HubNotFoundError(f"{answer}.{hint}", missing=missing, **about)
    if status in (401, 403, 451):
        return HubRefusedError(f"{answer}. {_LOGIN}", **about)
    return HubError(f"{answer}.", **about)


def _lasting(request: Request, error: TransientError, attempts: int) -> HubError:
    times = {0: "was not sent", 1: "failed once with"}.get(
        attempts, f"failed {attempts} times, the last time with"
    )
    more = ""
    if isinstance(error, _LimitedError):
        wait = "" if error.wait is None else f" for {error.wait:.0f} s"
        more = (
            f" It does not want requests{wait}, and this load may not wait any longer; "
            f"{VARIABLE} is the number of seconds that it may wait in total."
        )
    elif error.wait is not None and error.wait > _LONGEST_WAIT:
        more = f" The server requests a wait of {error.wait:.0f} s."
    return error.lasting(
        f"{request} {times}: {error}.{more}", repository=request.repository, request=str(request)
    )


def _token() -> str | None:
    """The user's token, but not one of a file in the working directory, unless that was chosen."""
    from huggingface_hub import constants, get_token

    variables = ("HF_TOKEN_PATH", "HF_HOME", "XDG_CACHE_HOME")
    chosen = next((os.environ[name] for name in variables if name in os.environ), "~")
    if not os.path.isabs(constants.HF_TOKEN_PATH) and chosen[:1] in ("", "~", "$"):
        return os.environ.get("HF_TOKEN")
    try:
        return get_token()
    except NotADirectoryError:  # some users' home directory is /dev/null
        return None


def _common_headers(agent: str) -> dict[str, str]:
    # The client's own build_hf_headers would add the versions of torch, Python and more, and would
    # send a request of its own to find out what to add.
    from huggingface_hub import constants

    headers = {}
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else _token()
    if token:
        headers["authorization"] = f"Bearer {token}"
    if not constants.HF_HUB_DISABLE_TELEMETRY:
        headers["user-agent"] = "; ".join(filter(None, (_own_agent(), agent)))
    return headers


@functools.cache
def _own_agent() -> str:
    return f"kernels-core/{version('kernels-core')}"
