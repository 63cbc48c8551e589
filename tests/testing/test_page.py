"""docs/testing-a-backend.md agrees with the code."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

from kernels_core.testing import BackendConformance

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "testing-a-backend.md").read_text("utf-8")
SHOWN = dict(re.findall(r"^```\w+ file=(\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
TESTS = ROOT / "backends" / "cuda" / "tests"


def test_the_test_is_shown_literally() -> None:
    assert SHOWN["test_conformance.py"] == (TESTS / "test_conformance.py").read_text("utf-8")


def test_the_machine_is_a_recorded_one() -> None:
    assert json.loads(SHOWN["hosts.json"])[0] in json.loads((TESTS / "hosts.json").read_text())


def test_every_rule_is_listed_with_its_contract() -> None:
    rules = [name for name in dir(BackendConformance) if name.startswith("test_")]
    rows = set()
    for name in rules:
        contract = inspect.getdoc(getattr(BackendConformance, name)).partition("\n\nFix:")[0]
        rows.add((name.removeprefix("test_").replace("_", "-"), " ".join(contract.split())))
    table = PAGE.partition("## The rules")[2]
    assert set(re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", table, re.MULTILINE)) == rows
