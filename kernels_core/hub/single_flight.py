"""Results that are computed once, whichever threads need them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, TypeVar

from kernels_core.parallel import Cancelled, check_cancelled, wait_for

T = TypeVar("T")


class SingleFlight:
    """Results by key. Threads that need the same one at the same time wait for one computation.

    A failure is raised in every thread that was waiting, and is not kept.
    """

    def __init__(self) -> None:
        self._results: dict[Hashable, Future[Any]] = {}
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget_unfinished)

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The result for a key; computed when there is none yet."""
        while True:
            with self._lock:
                known = self._results.get(key)
                result: Future[T] = Future() if known is None else known
                self._results[key] = result
            if known is None:
                try:
                    result.set_result(compute())
                except BaseException as error:
                    self.forget(key)
                    result.set_exception(error)
                return result.result()
            try:
                return wait_for(result)
            except (KeyboardInterrupt, Cancelled):
                check_cancelled()
                if result.done() and isinstance(result.exception(), (KeyboardInterrupt, Cancelled)):
                    continue  # the thread that computed it was stopped, not this one
                raise

    def known(self, key: Hashable) -> Any:
        """The result for a key; None when there is none yet."""
        result = self._results.get(key)
        return result.result() if result is not None and result.done() else None

    def is_requested(self, key: Hashable) -> bool:
        """Whether the result for a key is known or in flight."""
        return key in self._results

    def forget(self, key: Hashable) -> None:
        """Forget the result for a key, which is then computed again."""
        with self._lock:
            self._results.pop(key, None)

    def clear(self) -> None:
        """Forget all results."""
        with self._lock:
            self._results.clear()

    def _forget_unfinished(self) -> None:
        # The threads that were computing do not exist in a forked process.
        self._results = {key: result for key, result in self._results.items() if result.done()}
        self._lock = threading.Lock()
