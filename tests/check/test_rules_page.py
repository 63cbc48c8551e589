"""The page of the documentation about the rules is up to date."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kernels_core.check import Rule, all_rules
from kernels_core.check.rules_page import page

PAGE = Path(__file__).parents[2] / "docs" / "check-rules.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text("utf-8") == page(), (
        "run python -m kernels_core.check.rules_page > docs/check-rules.md"
    )


def test_every_rule_has_a_section_that_its_link_leads_to() -> None:
    headings = re.findall(r"^### (\S+)$", page(), re.MULTILINE)
    assert headings == [
        rule.id
        for family in dict.fromkeys(rule.family for rule in all_rules())
        for rule in all_rules()
        if rule.family == family
    ]


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.id)
def test_a_rule_says_what_is_required_why_and_how_to_fix_it(rule: Rule) -> None:
    for text in (rule.requirement, rule.why, rule.fix):
        assert len(text) > 15
        assert text.endswith(".")
    assert not rule.requirement[0].islower()
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", rule.id)
