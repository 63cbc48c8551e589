"""Work in several threads: results, errors, nesting, and the limit of the process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from kernels_core import parallel
from kernels_core.parallel import LIMIT, in_background, in_parallel


def test_results_are_in_the_order_of_the_items() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number == 0 else 0)
        return number * number

    assert in_parallel(slow_first, range(20)) == [number * number for number in range(20)]


@pytest.mark.parametrize("items", [[], [1]])
def test_few_items_start_no_thread(items: list[int]) -> None:
    threads = in_parallel(lambda _: threading.current_thread(), items)
    assert threads == [threading.current_thread()] * len(items)


def test_items_are_worked_on_at_the_same_time() -> None:
    # Each waits for all the others: with fewer threads this would never end.
    everybody = threading.Barrier(8, timeout=30)
    in_parallel(lambda _: everybody.wait(), range(8))


def test_the_first_item_that_fails_decides_whichever_fails_first() -> None:
    second_failed = threading.Event()

    def fail(number: int) -> None:
        if number == 0:
            assert second_failed.wait(30)
        second_failed.set()
        raise ValueError(number)

    with pytest.raises(ValueError, match=r"^0$"):
        in_parallel(fail, range(2))


def test_after_a_failure_nothing_new_is_begun() -> None:
    begun = []

    def fail(number: int) -> None:
        begun.append(number)
        time.sleep(0.01)
        raise ValueError(number)

    with pytest.raises(ValueError, match=r"^0$"):
        in_parallel(fail, range(1000))
    assert len(begun) <= LIMIT + 1


def test_nested_calls_end_and_stay_within_the_limit() -> None:
    before = threading.active_count()
    most = 0

    def leaf(_: int) -> int:
        nonlocal most
        most = max(most, threading.active_count() - before)
        time.sleep(0.001)
        return 1

    def branch(_: int) -> int:
        return sum(in_parallel(leaf, range(20)))

    assert sum(in_parallel(branch, range(40))) == 800
    assert 1 < most <= LIMIT
    assert threading.active_count() == before


def test_all_slots_are_free_afterwards() -> None:
    with pytest.raises(ZeroDivisionError):
        in_parallel(lambda number: 1 // number, [1, 1, 0, 1])
    in_parallel(abs, range(100))
    free = 0
    while parallel._slots.acquire(blocking=False):
        free += 1
    for _ in range(free):
        parallel._slots.release()
    assert free == LIMIT


def test_a_system_without_more_threads_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert in_parallel(abs, [-1, -2, -3]) == [1, 2, 3]


FORK = """
import os, threading
from kernels_core.parallel import LIMIT, in_parallel

forked = threading.Event()

def fork(number):
    if number:
        forked.wait(30)
        return None
    child = os.fork()
    if child == 0:
        everybody = threading.Barrier(LIMIT, timeout=30)
        try:
            in_parallel(lambda _: everybody.wait(), range(LIMIT))
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    forked.set()
    return status

assert in_parallel(fork, range(LIMIT))[0] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_starts_threads_of_its_own() -> None:
    # In a process of its own: what else tests have loaded may not survive a fork from a thread.
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=True, timeout=100)


def test_work_in_the_background_is_done_beside_the_block() -> None:
    both = threading.Barrier(2, timeout=30)
    with in_background(both.wait) as result:
        both.wait()
        assert result() in (0, 1)
        assert result() in (0, 1)


def test_an_error_in_the_background_is_raised_where_the_result_is_needed() -> None:
    with in_background(lambda: 1 // 0) as result, pytest.raises(ZeroDivisionError):
        result()
    with in_background(lambda: 1 // 0):
        pass


def test_the_block_ends_after_the_thread() -> None:
    done = []

    def work() -> None:
        time.sleep(0.05)
        done.append(1)

    with pytest.raises(KeyError), in_background(work):
        raise KeyError
    assert done == [1]


def test_without_a_free_slot_the_caller_does_the_work_once_and_when_it_is_needed() -> None:
    threads = []

    def work() -> int:
        threads.append(threading.current_thread())
        return 7

    for _ in range(LIMIT):
        parallel._slots.acquire()
    try:
        with in_background(work) as result:
            assert not threads
            assert (result(), result()) == (7, 7)
        with in_background(work):
            pass
    finally:
        parallel._slots.release(LIMIT)
    assert threads == [threading.current_thread()]
