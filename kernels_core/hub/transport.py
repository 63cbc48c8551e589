"""One request to the Hub: a time-out, a bounded retry with backoff, errors that say what failed.

The session is the Hub client's own, with its proxies, certificates and offline switch. The client
has time-outs and retries for some calls only; here all requests have them.
"""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import attrs

from kernels_core.errors import (
    HubAnswerError,
    HubError,
    HubNotFoundError,
    HubOfflineError,
    HubRefusedError,
    HubUnreachableError,
)

if TYPE_CHECKING:
    from httpx2 import Response

T = TypeVar("T")

ATTEMPTS = 4
_FIRST_WAIT = 0.25  # seconds; doubles with each attempt
# If the server requests a longer wait, there is no further attempt.
_LONGEST_WAIT = 60.0
# A response that trickles in keeps each single read below its time-out.
_LONGEST_ANSWER = 60.0

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
    """

    url: str
    repository: str
    params: Mapping[str, str] = attrs.field(factory=dict)
    headers: dict[str, str] = attrs.field(factory=dict)
    agent: str = ""
    timeout: float = 10.0

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


def fetch(request: Request, read: Callable[[Response], T], *, attempts: int = ATTEMPTS) -> T:
    """Send a request, and repeat it while its failure is transient.

    `read` makes the result of the response, whose body is not read yet. Raises a `HubError`: of the
    class that fits what the Hub said, or `HubUnreachableError` when every attempt failed.
    """
    for attempt in range(1, attempts + 1):
        try:
            return _try(request, read)
        except TransientError as error:
            # Jitter: many processes that failed together should not retry together.
            backoff = _FIRST_WAIT * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
            wait = backoff if error.wait is None else error.wait
            if attempt == attempts or wait > _LONGEST_WAIT:
                raise _lasting(request, error, attempt, wait) from error.__cause__
        time.sleep(wait)
    raise ValueError(f"attempts must be positive, got {attempts}.")


def _try(request: Request, read: Callable[[Response], T]) -> T:
    from huggingface_hub import get_session
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    # The base of everything that the HTTP library raises, whichever library this client uses.
    http_error: type[BaseException] = HfHubHTTPError.__bases__[0]
    try:
        with get_session().stream(
            "GET",
            request.url,
            params=dict(request.params) or None,
            headers={**_common_headers(request.agent), **request.headers},
            timeout=request.timeout,
            follow_redirects=True,
        ) as response:
            if response.status_code >= 400:
                _refuse(request, response)
            return read(response)
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


def read_all(response: Response, limit: int) -> bytes:
    """The body of a response; raises HubAnswerError when it is larger than `limit` bytes."""
    deadline = time.monotonic() + _LONGEST_ANSWER
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > limit:
            raise HubAnswerError(
                f"The response to GET {response.request.url} is larger than {limit} bytes.",
                repository="",
                request=f"GET {response.request.url}",
            )
        if time.monotonic() > deadline:
            raise TransientError(f"the response took longer than {_LONGEST_ANSWER:.0f} s")
    return bytes(body)


def _refuse(request: Request, response: Response) -> NoReturn:
    status, code = response.status_code, response.headers.get("X-Error-Code", "")
    said = response.headers.get("X-Error-Message") or response.reason_phrase
    if status in (408, 425, 429) or status >= 500:
        raise TransientError(f"HTTP {status} {said}".strip(), _retry_after(response))
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


def _retry_after(response: Response) -> float | None:
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _lasting(request: Request, error: TransientError, attempts: int, wait: float) -> HubError:
    times = "once" if attempts == 1 else f"{attempts} times, the last time"
    patience = f" The server requests a wait of {wait:.0f} s." if wait > _LONGEST_WAIT else ""
    return error.lasting(
        f"{request} failed {times} with: {error}.{patience}",
        repository=request.repository,
        request=str(request),
    )


def _common_headers(agent: str) -> dict[str, str]:
    # The client's own build_hf_headers would add the versions of torch, Python and more, and would
    # send a request of its own to find out what to add.
    from huggingface_hub import constants, get_token

    headers = {}
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    if token:
        headers["authorization"] = f"Bearer {token}"
    if not constants.HF_HUB_DISABLE_TELEMETRY:
        headers["user-agent"] = "; ".join(filter(None, (_own_agent(), agent)))
    return headers


@functools.cache
def _own_agent() -> str:
    return f"kernels-core/{version('kernels-core')}"
