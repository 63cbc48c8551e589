"""Running work in several threads, with one limit on their number for the whole process."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

LIMIT = 32
"""How many threads `in_parallel` starts at most, all calls of a process taken together."""

_slots = threading.Semaphore(LIMIT)


def in_parallel(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Do the same work for each item, several items at a time.

    The calling thread works too, so calls may be nested: where no further thread may be started,
    it does all of the work itself.

    Args:
        work: what to do with an item.
        items: the items.

    Returns:
        The results, in the order of the items.

    Raises:
        BaseException: what the work raised for the first item for which it failed. Items that were
            not begun by then are skipped, and those that were are waited for.

    Example:
        >>> in_parallel(abs, [-1, 2, -3])
        [1, 2, 3]
    """
    todo = deque(enumerate(items))
    count = len(todo)
    results: dict[int, R] = {}
    errors: dict[int, BaseException] = {}

    def do_next() -> bool:
        try:
            index, item = todo.popleft()
        except IndexError:
            return False
        try:
            results[index] = work(item)
        except BaseException as error:
            # Items are begun in order, so no item before the first that fails is skipped.
            errors[index] = error
            todo.clear()
        return True

    def help_out(slots: threading.Semaphore) -> None:
        try:
            while do_next():
                pass
        finally:
            slots.release()

    threads: list[threading.Thread] = []
    try:
        going_on = True
        while going_on:
            # Asked again before each item, because other calls may have ended since.
            while todo and len(threads) < count - 1 and _slots.acquire(blocking=False):
                thread = threading.Thread(target=help_out, args=(_slots,), name="kernels")
                try:
                    thread.start()
                except RuntimeError:  # the system has no more threads
                    _slots.release()
                    break
                threads.append(thread)
            going_on = do_next()
        for thread in threads:
            thread.join()
    except BaseException:  # Ctrl-C
        todo.clear()
        raise
    if errors:
        raise errors[min(errors)]
    return [results[index] for index in range(count)]


def _forget_other_threads() -> None:
    # The threads that held slots do not exist in a forked process.
    global _slots
    _slots = threading.Semaphore(LIMIT)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_other_threads)
