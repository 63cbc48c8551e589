"""Running work in several threads, with one limit on their number for the whole process.

Work can be interrupted: after Ctrl-C the threads are told to stop, and one that does not within a
moment, because it waits for a server, is left alone. Such a thread keeps no process from ending.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

LIMIT = 32
"""The most threads that run at a time, all calls in a process taken together."""

_slots = threading.Semaphore(LIMIT)

# Seconds: how often waiting threads look whether they should stop, and how long they may take.
_TICK = 0.1
_GRACE = 0.5


class Cancelled(BaseException):
    """Raised in work whose result nobody needs any more; not an Exception, so nothing hides it."""


class _Cancel:
    """Whether some work should stop: because it was cancelled, or what it is a part of."""

    def __init__(self) -> None:
        self._parent = _cancel.get()
        self._requested = False

    def request(self) -> None:
        self._requested = True

    @property
    def requested(self) -> bool:
        return self._requested or (self._parent is not None and self._parent.requested)


_cancel: contextvars.ContextVar[_Cancel | None] = contextvars.ContextVar("cancel", default=None)


def check_cancelled() -> None:
    """Raise Cancelled in a thread whose work should stop."""
    cancel = _cancel.get()
    if cancel is not None and cancel.requested:
        raise Cancelled


def pause(seconds: float) -> None:
    """Sleep, unless the work should stop."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        check_cancelled()
        time.sleep(min(left, _TICK))


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
            while batch.needs(len(threads)) and (thread := _start(batch.do_rest, batch.cancel)):
                threads.append(thread)
            going_on = batch.do_next()
        _join(threads)
    except BaseException:  # Ctrl-C
        batch.todo.clear()
        batch.cancel.request()
        _join(threads, _GRACE)
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
        self.cancel = _Cancel()

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
        except (KeyboardInterrupt, Cancelled):
            raise
        except BaseException as error:
            # Items are begun in order, so no item before the first that fails is skipped.
            self.errors[index] = error
            self.todo.clear()
        return True

    def do_rest(self) -> None:
        with contextlib.suppress(Cancelled):
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
    cancel = _Cancel()
    thread = _start(lambda: _settle(result, work), cancel)

    def get() -> R:
        if thread is None and not result.done():
            _settle(result, work)
        return wait_for(result)

    try:
        yield get
    except (KeyboardInterrupt, Cancelled):
        cancel.request()
        raise
    finally:
        _join([thread] if thread else [], _GRACE if cancel.requested else None)


def apart(work: Callable[[], R], still_wanted: Callable[[], None]) -> R:
    """Do work in a thread of its own, which is left alone if it is not wanted any more.

    `still_wanted` is called all the time and may raise; so may this function where it is called
    from work that is cancelled. The limit of threads does not apply.
    """
    result: Future[R] = Future()
    try:
        _thread(lambda: _settle(result, work)).start()
    except RuntimeError:  # the system has no more threads
        return work()
    return wait_for(result, still_wanted)


def wait_for(result: Future[R], still_wanted: Callable[[], None] = lambda: None) -> R:
    """The result of a future, unless the work that waits for it should stop."""
    while True:
        check_cancelled()
        still_wanted()
        if wait([result], _TICK).done:
            return result.result()


def _settle(result: Future[R], work: Callable[[], R]) -> None:
    try:
        result.set_result(work())
    except BaseException as error:
        result.set_exception(error)


def _join(threads: Iterable[threading.Thread], limit: float | None = None) -> None:
    """Wait for threads, for at most `limit` seconds."""
    end = None if limit is None else time.monotonic() + limit
    for thread in threads:
        while thread.is_alive() and (end is None or time.monotonic() < end):
            thread.join(_TICK)


def _start(work: Callable[[], object], cancel: _Cancel) -> threading.Thread | None:
    """Start a thread, or return None when there are as many as there may be."""
    slots = _slots
    if not slots.acquire(blocking=False):
        return None

    def run() -> None:
        _cancel.set(cancel)
        try:
            work()
        finally:
            slots.release()

    thread = _thread(run)
    try:
        thread.start()
    except RuntimeError:  # the system has no more threads
        slots.release()
        return None
    return thread


def _thread(work: Callable[[], object]) -> threading.Thread:
    # A daemon: the interpreter does not wait for it when it ends.
    context = contextvars.copy_context()
    return threading.Thread(target=context.run, args=(work,), name="kernels", daemon=True)


def _forget_other_threads() -> None:
    # The threads that held slots do not exist in a forked process.
    global _slots
    _slots = threading.Semaphore(LIMIT)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_other_threads)
