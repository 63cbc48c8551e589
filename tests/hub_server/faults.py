"""What can go wrong between a client and a Hub."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from hub_server.answers import Answer, error
from hub_server.requests import Request

_WRONG_COMMIT = "f" * 40

# Every kind of fault; "stall-body" stalls after half of the body, the others say what they do.
FAULTS = (
    "500",
    "503",
    "429",
    "reset",
    "stall",
    "stall-body",
    "truncate",
    "corrupt",
    "wrong-commit",
    "latency",
)

# Answers that never end, a byte at a time: of the head, the body, or what may follow either.
DRIPS = ("drip-head", "drip-body", "drip-continue", "drip-trailers")


def flip_a_bit(content: bytes) -> bytes:
    """Other content of the same length."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@attrs.define(eq=False)
class Fault:
    """A fault of some requests.

    Attributes:
        kind: one of `FAULTS` or `DRIPS`.
        match: the requests: their kind, their "METHOD path", or a function.
        times: how often, or None for always.
        seconds: how long a stall lasts, or the delay of "latency".
        retry_after: the `Retry-After` of "429" and "503", or None for no such header.
        change: what "corrupt" makes of a body.
        hits: how often it happened.
    """

    kind: str = attrs.field(validator=attrs.validators.in_(FAULTS + DRIPS))
    match: str | Callable[[Request], bool]
    times: int | None = 1
    seconds: float = 60.0
    retry_after: str | None = None
    change: Callable[[bytes], bytes] = flip_a_bit
    hits: int = 0

    def strikes(self, request: Request) -> bool:
        """Whether it happens to this request, which is counted then."""
        if self.times is not None and self.hits >= self.times:
            return False
        matches = (
            self.match in ("", request.kind, request.line)
            if isinstance(self.match, str)
            else self.match(request)
        )
        self.hits += matches
        return matches


def changed(answer: Answer, fault: Fault) -> Answer:
    """The answer after the fault."""
    if fault.kind in ("500", "503", "429"):
        retry = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
        return error(int(fault.kind), "", "Something went wrong", **retry)
    if fault.kind == "corrupt" and answer.body:
        return attrs.evolve(answer, body=fault.change(answer.body))
    if fault.kind == "wrong-commit" and "X-Repo-Commit" in answer.headers:
        return attrs.evolve(answer, headers={**answer.headers, "X-Repo-Commit": _WRONG_COMMIT})
    return answer
