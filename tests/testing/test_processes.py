"""Functions in separate processes: their results, and how they fail."""

from __future__ import annotations

import operator
import os
import sys
import time

import pytest

from kernels_core.testing import processes
from kernels_core.testing.processes import ProcessError, run_beside_torch, run_forked, run_fresh


def is_imported(name: str) -> str:
    return f"{name!r} in __import__('sys').modules"


def test_a_fresh_process_has_imported_nothing_and_its_own_order_of_sets() -> None:
    assert run_fresh(eval, is_imported("torch"), hash_seed=1) is False
    assert run_fresh(hash, "x", hash_seed=1) == run_fresh(hash, "x", hash_seed=1)
    assert run_fresh(hash, "x", hash_seed=1) != run_fresh(hash, "x", hash_seed=2)
    assert os.environ.get("PYTHONHASHSEED") != "2"


def test_a_process_beside_torch_is_not_this_one() -> None:
    pytest.importorskip("torch")
    assert run_beside_torch(eval, is_imported("torch")) is (
        "forkserver" in processes.multiprocessing.get_all_start_methods()
    )
    assert run_beside_torch(os.getpid) != os.getpid()


@pytest.mark.skipif(not processes.can_fork(), reason="this system cannot fork")
def test_a_fork_is_a_copy_of_this_process() -> None:
    marker = "only here"
    assert run_forked(lambda: (marker, os.getppid())) == ("only here", os.getpid())


def test_what_a_function_raises_is_told_with_its_traceback() -> None:
    with pytest.raises(ProcessError, match="ZeroDivisionError"):
        run_fresh(operator.truediv, 1, 0, hash_seed=0)
    with pytest.raises(ProcessError, match="SystemExit"):
        run_fresh(sys.exit, 3, hash_seed=0)


def test_a_process_that_ends_by_itself_is_told_with_its_status() -> None:
    with pytest.raises(ProcessError, match="ended with exit status 3"):
        run_fresh(os._exit, 3, hash_seed=0)


def test_a_process_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_SECONDS", 0.5)
    with pytest.raises(ProcessError, match="did not finish within 0 seconds"):
        run_fresh(time.sleep, 60, hash_seed=0)
