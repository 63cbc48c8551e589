"""Running work in several threads, with one limit on their number for the whole process."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

LIMIT = 32
"""The most threads that run at a time, all calls in a process taken together."""

_slots = threading.Semaphore(LIMIT)


def in_parallel(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Do the same work for each item, several at a time, and return the results in order.

    The calling thread works too, so calls may be nested: where no further thread may be started, it
    does all of the work itself. Raises what the work raised for the first item for which it failed.
    Items that were not begun by then are skipped, and those that were are waited for.
    """
    batch = _Batch(work, items)
    threads: list[threading.Thread] = []
    try:
        going_on = True
        while going_on:
            # Tried again before each item, because other calls may have ended since.
            while batch.needs(len(threads)) and (thread := _start(batch.do_rest)):
                threads.append(thread)
            going_on = batch.do_next()
        for thread in threads:
            thread.join()
    except BaseException:  # Ctrl-C
        batch.todo.clear()
        raise
    return batch.outcome()


class _Batch(Generic[T, R]):
    """The items of one call, and the results of those that are done."""

    def __init__(self, work: Callable[[T], R], items: Iterable[T]) -> None:
        self.work = work
        self.todo = deque(enumerate(items))
        self.count = len(self.todo)
        self.results: dict[int, R] = {}
        self.errors: dict[int, BaseException] = {}

    def needs(self, threads: int) -> bool:
        """Whether another thread, beside the calling one, would have something to do."""
        return bool(self.todo) and threads < self.count - 1

    def do_next(self) -> bool:
        """Do an item; return False when none is left."""
        try:
            index, item = self.todo.popleft()
        except IndexError:
            return False
        try:
            self.results[index] = self.work(item)
        except BaseException as error:
            # Items are begun in order, so no item before the first that fails is skipped.
            self.errors[index] = error
            self.todo.clear()
        return True

    def do_rest(self) -> None:
        while self.do_next():
            pass

    def outcome(self) -> list[R]:
        if self.errors:
            raise self.errors[min(self.errors)]
        return [self.results[index] for index in range(self.count)]


@contextlib.contextmanager
def in_background(work: Callable[[], R]) -> Iterator[Callable[[], R]]:
    """Start work in another thread, and yield a function that waits for the result.

    That function raises what the work raised. Where no thread may be started, its first call does
    the work. The block ends after the thread.
    """
    result: Future[R] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    thread = _start(run)

    def get() -> R:
        if thread is None and not result.done():
            run()
        return result.result()

    try:
        yield get
    finally:
        if thread is not None:
            thread.join()


def _start(work: Callable[[], object]) -> threading.Thread | None:
    """Start a thread, or return None when there are as many as there may be."""
    slots = _slots
    if not slots.acquire(blocking=False):
        return None

    def run() -> None:
        try:
            work()
        finally:
            slots.release()

    thread = threading.Thread(target=run, name="kernels")
    try:
        thread.start()
    except RuntimeError:  # the system has no more threads
        slots.release()
        return None
    return thread


def _forget_other_threads() -> None:
    # The threads that held slots do not exist in a forked process.
    global _slots
    _slots = threading.Semaphore(LIMIT)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_other_threads)
