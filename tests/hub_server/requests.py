"""The log of requests: what was requested, when, and how much of it one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs


@attrs.define(eq=False)
class Request:
    """One request that reached the server.

    Attributes:
        method: "GET" or "HEAD".
        path: the path as it was sent, without the query.
        query: the query as it was sent.
        kind: "refs", "info", "tree", "head", "file", "organization", "telemetry" or "unknown".
        headers: what the client sent, names in lower case.
        started: when the request had arrived, in seconds of a monotonic clock.
        ended: when the answer was on its way; None while it is not.
        status: the status of the answer; 0 for one that never went out whole.
    """

    method: str
    path: str
    query: str
    kind: str
    headers: Mapping[str, str]
    started: float
    ended: float | None = None
    status: int = 0

    @property
    def line(self) -> str:
        """The method and the path, which identify a request of a load."""
        return f"{self.method} {self.path}"

    def __str__(self) -> str:
        return self.line


def _spans(requests: Iterable[Request]) -> list[tuple[float, float]]:
    return [(r.started, r.started if r.ended is None else r.ended) for r in requests]


def longest_chain(requests: Iterable[Request]) -> int:
    """The length of the longest chain of requests of which none overlaps the next."""
    length, free_from = 0, float("-inf")
    for start, end in sorted(_spans(requests), key=lambda span: span[1]):
        if start >= free_from:
            length, free_from = length + 1, end
    return length


def round_trips(requests: Iterable[Request], latency: float) -> float:
    """The time in which at least one answer was awaited, in latencies (seconds per answer)."""
    waited, free_from = 0.0, float("-inf")
    for start, end in sorted(_spans(requests)):
        waited += max(0.0, end - max(start, free_from))
        free_from = max(free_from, end)
    return waited / latency
