"""The conformance kit: proves that an installed backend plugin keeps the contract of the hooks.

A vendor's test suite subclasses `BackendConformance`; see docs/testing-a-backend.md. pytest and
hypothesis are needed here and nowhere else: `pip install kernels-core[testing]`.

conformance.py   `BackendConformance`: what a vendor states, and all groups of rules
rule.py          what a rule is, and what its failure says
rules_*.py       the rules, by what they are about
subject.py       the installed plugin that is judged
base.py          what all rules work with
machines.py      recorded machines: the format of `hosts.json`
replay.py        a machine's answers in place of the functions that ask the machine
questions.py     what a plugin is asked about recorded machines, here and in another process
observations.py  what a plugin does in processes of its own
processes.py     running a function in another process
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernels_core.testing.conformance import BackendConformance as BackendConformance

__all__ = ["BackendConformance"]


def __getattr__(name: str) -> Any:
    # Lazy, because processes that only observe a plugin need no pytest.
    if name == "BackendConformance":
        from kernels_core.testing.conformance import BackendConformance

        return BackendConformance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
