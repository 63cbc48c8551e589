"""The conformance kit: checks that an installed backend plugin keeps the contract of the hooks.

The test suite of a plugin subclasses `BackendConformance`; see docs/testing-a-backend.md. Only this
package needs pytest and hypothesis: `pip install kernels-core[testing]`.

conformance.py   `BackendConformance`: all rules, and what a subclass sets
rule.py          what a rule is, and what its failure says
rules_*.py       the rules, by subject
subject.py       the installed plugin under test
base.py          what all rules use
machines.py      recorded machines: the format of `hosts.json`
replay.py        replacing the functions that query the machine
questions.py     hook calls with the same result in every process
observations.py  what a plugin does in separate processes
processes.py     running a function in another process
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernels_core.testing.conformance import BackendConformance as BackendConformance

__all__ = ["BackendConformance"]


def __getattr__(name: str) -> Any:
    # Lazy: the processes that observe a plugin must not need pytest.
    if name == "BackendConformance":
        from kernels_core.testing.conformance import BackendConformance

        return BackendConformance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
