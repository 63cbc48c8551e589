"""Waiting where the Hub limits requests, for as long as the user has patience.

When the Hub says when it answers again, no thread of this process sends a request before that.
Source: https://huggingface.co/docs/hub/rate-limits
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import random
import re
import threading
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from kernels_core.errors import EnvironmentVariableError
from kernels_core.hub.progress import one_line
from kernels_core.parallel import pause

if TYPE_CHECKING:
    from httpx2 import Response

logger = logging.getLogger("kernels_core")

VARIABLE = "KERNELS_HUB_PATIENCE"
_DEFAULT = 600.0  # seconds

# An item of the header RateLimit: "api";r=0;t=57
_REMAINING = re.compile(r";\s*r\s*=\s*(\d{1,9})(?!\d)")
_RESET = re.compile(r";\s*t\s*=\s*(\d{1,9})(?!\d)")


def patience() -> float:
    """How many seconds a load may wait in total because the Hub limits requests."""
    value = os.environ.get(VARIABLE, "").strip()
    if not value:
        return _DEFAULT
    if not re.fullmatch(r"\d{1,9}(\.\d+)?", value):
        raise EnvironmentVariableError(
            f"{VARIABLE}={value!r} is not a number of seconds, such as 600; 0 means not to wait.",
            variable=VARIABLE,
        )
    return float(value)


def stated_wait(response: Response) -> float | None:
    """In how many seconds a server says that it will answer again; None where it does not say."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    with contextlib.suppress(ValueError, OverflowError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    waits = [
        float(reset[1])
        for item in response.headers.get("RateLimit", "").split(",")
        if (left := _REMAINING.search(item)) and int(left[1]) == 0
        if (reset := _RESET.search(item))
    ]
    return max(waits, default=None)


class _Budget:
    """What is left of the patience of one load, whose threads wait at the same time."""

    def __init__(self) -> None:
        self._left = patience()
        self._waited_until = 0.0

    def spend(self, start: float, end: float) -> bool:
        """Whether there is enough left to wait from one moment to another; spends it."""
        seconds = max(0.0, end - max(start, self._waited_until))
        if seconds > self._left:
            return False
        self._left -= seconds
        self._waited_until = max(self._waited_until, end)
        return True


_budget: contextvars.ContextVar[_Budget | None] = contextvars.ContextVar("budget", default=None)


@contextlib.contextmanager
def one_load() -> Iterator[None]:
    """All requests of the block share one patience, and one line of progress.

    A block inside of another is part of it.
    """
    if _budget.get() is not None:
        yield
        return
    token = _budget.set(_Budget())
    try:
        with one_line():
            yield
    finally:
        _budget.reset(token)


class Limits:
    """Until when servers do not want requests."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._lock = threading.Lock()

    def hold(self, server: str, seconds: float, why: str) -> bool:
        """Note that a server does not want requests for some time. False where that is too long."""
        # Jitter: processes that were refused together should not come back together.
        seconds += random.uniform(0, max(1.0, seconds / 10))
        now = time.monotonic()
        budget = _budget.get()
        if budget is None or not budget.spend(now, now + seconds):
            return False
        with self._lock:
            is_new = self._until.get(server, 0.0) <= now
            self._until[server] = max(self._until.get(server, 0.0), now + seconds)
        if is_new:
            logger.warning(
                "Waiting %.0f s: %s limits requests (%s). %s=SECONDS says how long a load may wait "
                "in total.",
                seconds,
                server,
                why,
                VARIABLE,
            )
        return True

    def wait(self, server: str, longest: float) -> bool:
        """Wait until a server wants requests again. False, at once, where that is too long."""
        now = time.monotonic()
        until = self._until.get(server, 0.0)
        if until > now:
            budget = _budget.get()
            if until - now > longest or budget is None or not budget.spend(now, until):
                return False
            pause(until - now)
        return True


limits = Limits()
