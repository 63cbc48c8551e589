"""Reports as text, JSON, SARIF and GitHub workflow commands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from kernels_core.check import Finding, Problem, Report, Severity, all_rules, check
from kernels_core.cli.check_formats import as_github, as_json, as_sarif
from kernels_core.cli.check_text import as_text

RULES = {rule.id: rule for rule in all_rules()}

Make = Callable[..., Path]


def finding(
    rule: str, message: str, path: str = "", variant: str | None = None, **more: Any
) -> Finding:
    return Finding(RULES[rule], Problem(message, path, **more), variant)


NAMES = [f"torch2{release}-cxx11-cu130-x86_64-linux" for release in range(100)]
REPORT = Report(
    "org/activation at v1 (0123456789ab)",
    (
        finding("completeness-variants", "1 is missing"),
        finding("layout-package", "has no __init__.py", f"build/{NAMES[0]}", NAMES[0]),
        *(
            finding("layout-bytecode", "bytecode", f"build/{name}/ops/a.pyc", name)
            for name in NAMES
        ),
        *(
            finding(
                "metadata-schema",
                "is there twice",
                f"build/{name}/metadata.json",
                name,
                line=3,
                symbol="name",
            )
            for name in NAMES[:2]
        ),
    ),
    tuple(NAMES),
    native_modules=7,
    python_files=1,
    not_judged=("run: there is no torch",),
)


# Text


def test_what_is_the_same_in_many_builds_is_shown_once() -> None:
    text = as_text(REPORT)
    shown = "\n".join(line for line in text.splitlines() if "layout-bytecode " in line)
    assert shown == "  error    layout-bytecode  ops/a.pyc: bytecode\nlayout-bytecode (error)"
    assert f"\n100 of 100 builds: {', '.join(NAMES[:3])} and 97 more\n" in text
    assert f"\nbuild/{NAMES[0]}\n  error    layout-package  has no __init__.py\n" in text
    where = "  error    metadata-schema  metadata.json:3 (name): is there twice\n"
    assert f"2 of 100 builds: {NAMES[0]}, {NAMES[1]}\n{where}" in text


def test_each_broken_rule_is_explained_once() -> None:
    text = as_text(REPORT)
    for rule_id in ("completeness-variants", "layout-package", "layout-bytecode"):
        rule = RULES[rule_id]
        flat = " ".join(text.split())
        assert flat.count(f"Why: {rule.why}") == flat.count(f"Fix: {rule.fix}") == 1
        assert flat.count(f"docs/check-rules.md#{rule_id}") == 1
    assert "layout-windows-names" not in text


def test_the_last_line_sums_up_and_what_was_not_judged_is_told() -> None:
    *_, note, empty, last = as_text(REPORT).splitlines()
    assert (note, empty) == ("Not judged: run: there is no torch", "")
    assert last == (
        "org/activation at v1 (0123456789ab): 104 errors, "
        "in 100 builds, 7 native modules, 1 Python file"
    )
    clean = as_text(Report("somewhere", (), ("torch-cpu",), python_files=2))
    assert clean == "somewhere: no problems, in 1 build, 2 Python files"


def test_hundreds_of_findings_of_one_rule_stay_readable() -> None:
    findings = tuple(
        finding("layout-bytecode", "bytecode", f"build/torch-cpu/{n}.pyc", "torch-cpu")
        for n in range(500)
    )
    text = as_text(Report("somewhere", findings, ("torch-cpu",)))
    assert len(text.splitlines()) < 40
    assert "... and 480 more of layout-bytecode; --format json lists all." in text


def test_names_cannot_move_the_cursor_or_write_lines_of_their_own() -> None:
    evil = finding("layout-bytecode", "a\x1b[2Jb\r\n::error::x", "build/a/\x07.pyc", "a\nb")
    text = as_text(Report("x\x1b[31m", (evil,), ("a\nb",)))
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", text)
    assert not re.search("^::", as_github(Report("x", (evil,), ("a",))).partition("\n")[2], re.M)


def test_colour_changes_nothing_else() -> None:
    coloured = as_text(REPORT, colour=True)
    assert "\x1b[31merror" in coloured
    assert re.sub(r"\x1b\[\d*m", "", coloured) == as_text(REPORT)


# JSON


def test_json_has_everything() -> None:
    result = json.loads(json.dumps(as_json(REPORT)))
    assert result["subject"] == REPORT.subject
    assert result["clean"] is False
    assert result["counts"] == {
        "errors": 104,
        "warnings": 0,
        "builds": 100,
        "native_modules": 7,
        "python_files": 1,
    }
    assert result["findings"][-1] == {
        "rule": "metadata-schema",
        "severity": "error",
        "variant": NAMES[1],
        "path": f"build/{NAMES[1]}/metadata.json",
        "line": 3,
        "symbol": "name",
        "message": "is there twice",
    }
    assert result["not_judged"] == ["run: there is no torch"]
    rules = result["rules"]
    assert list(rules) == list(dict.fromkeys(each["rule"] for each in result["findings"]))
    assert rules["layout-package"] == {
        "severity": "error",
        "scope": "build",
        "requirement": RULES["layout-package"].requirement,
        "why": RULES["layout-package"].why,
        "fix": RULES["layout-package"].fix,
        "docs": "docs/check-rules.md#layout-package",
    }


# SARIF


def assert_is_sarif(log: dict[str, Any]) -> None:
    """What the schema of SARIF 2.1.0 and GitHub's reader require of our output."""
    assert set(log) == {"$schema", "version", "runs"}
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    assert set(run) == {"tool", "invocations", "results"}
    driver = run["tool"]["driver"]
    assert driver["name"]
    ids = [rule["id"] for rule in driver["rules"]]
    assert len(set(ids)) == len(ids)
    for rule in driver["rules"]:
        assert rule["shortDescription"]["text"]
        assert rule["fullDescription"]["text"]
        assert rule["help"]["text"]
        assert rule["help"]["markdown"]
        assert rule["defaultConfiguration"]["level"] in ("error", "warning")
        if "helpUri" in rule:
            assert urlsplit(rule["helpUri"]).scheme == "https"
    for result in run["results"]:
        assert ids[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] in ("error", "warning")
        assert result["message"]["text"]
        (location,) = result["locations"]
        physical = location["physicalLocation"]
        uri = physical["artifactLocation"]["uri"]
        assert re.fullmatch(r"(?:[A-Za-z0-9._~/-]|%[0-9A-F]{2})+", uri)
        assert not uri.startswith("/")
        assert physical.get("region", {"startLine": 1})["startLine"] >= 1
        for logical in location.get("logicalLocations", ()):
            assert set(logical) == {"fullyQualifiedName"}
    (invocation,) = run["invocations"]
    assert invocation["executionSuccessful"] is True
    for notification in invocation["toolExecutionNotifications"]:
        assert notification["message"]["text"]


@pytest.mark.parametrize("report", [REPORT, Report("empty", ())])
def test_sarif_has_the_structure_of_sarif(report: Report) -> None:
    log = json.loads(json.dumps(as_sarif(report)))
    assert_is_sarif(log)
    assert len(log["runs"][0]["results"]) == len(report.findings)


def test_sarif_says_where_with_encoded_paths() -> None:
    odd = "build/a b/\u00e9%#?.py"
    findings = (finding("layout-bytecode", "x", odd, line=4, symbol="f"), REPORT.findings[0])
    log = as_sarif(Report("x", findings, ("a b",)))
    assert_is_sarif(log)
    first, second = log["runs"][0]["results"]
    location = first["locations"][0]
    assert unquote(location["physicalLocation"]["artifactLocation"]["uri"]) == odd
    assert location["physicalLocation"]["region"] == {"startLine": 4}
    assert location["logicalLocations"] == [{"fullyQualifiedName": "f"}]
    # What concerns the whole repository needs a place, too, to be shown at all.
    place = second["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert place == "build"


def test_names_that_are_no_text_can_be_written_in_every_format(make_build: Make) -> None:
    repository = make_build("torch-cpu", {"__init__.py": "", "caf\udce9.pyc": b""})
    report = check(repository, select=["layout-bytecode"])
    assert_is_sarif(as_sarif(report))
    uri = as_sarif(report)["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert uri["artifactLocation"]["uri"].endswith("caf%E9.pyc")
    for text in (as_text(report), as_github(report), json.dumps(as_json(report))):
        text.encode()


def test_paths_are_those_of_the_checkout(make_build: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = make_build("torch-cpu", {"__init__.py": "", "a.pyc": b""})

    def uri() -> str:
        log = as_sarif(check(repository, select=["layout-bytecode"]))
        location = log["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
        return str(location["artifactLocation"]["uri"])

    monkeypatch.chdir(repository)
    assert uri() == "build/torch-cpu/a.pyc"
    monkeypatch.chdir(repository.parent)
    assert uri() == "activation/build/torch-cpu/a.pyc"
    monkeypatch.chdir(repository / "build")  # not below it
    assert uri() == "build/torch-cpu/a.pyc"


def test_rules_lead_to_where_the_project_has_its_documentation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from kernels_core.check import rules_page

    monkeypatch.setattr(rules_page, "_pages", lambda: "https://example.org/project/")
    (rule, *_) = as_sarif(REPORT)["runs"][0]["tool"]["driver"]["rules"]
    assert rule["helpUri"] == (
        "https://example.org/project/docs/check-rules.md#completeness-variants"
    )
    assert_is_sarif(as_sarif(REPORT))


# GitHub


def test_github_gets_a_command_for_each_finding() -> None:
    lines = as_github(REPORT).splitlines()
    assert len(lines) == len(REPORT.findings) + 1
    assert lines[-2] == (
        f"::error file=build/{NAMES[1]}/metadata.json,title=metadata-schema,line=3::"
        f"name: is there twice. Fix: {RULES['metadata-schema'].fix}"
    )
    assert lines[-1] == "kernels-core check: 104 errors, 0 warnings"
    warning = next(rule for rule in all_rules() if rule.severity is Severity.WARNING)
    shown = as_github(Report("x", (finding(warning.id, "w", "a"),)))
    assert shown.startswith("::warning file=a,")
    assert shown.endswith("kernels-core check: 0 errors, 1 warning")


def test_what_github_shows_says_nothing_twice() -> None:
    problem = Problem("uses PyFrame_GetBack.", "a.so", symbol="PyFrame_GetBack")
    text = as_github(Report("x", (Finding(RULES["abi3-stable"], problem),)))
    assert "::uses PyFrame_GetBack. Fix: " in text


def test_github_gets_what_it_would_misread_escaped() -> None:
    text = as_github(Report("x", (finding("layout-bytecode", "50%\r\nb", "a,b:c%.pyc"),)))
    command = text.splitlines()[0]
    assert command.startswith("::error file=a%2Cb%3Ac%25.pyc,title=layout-bytecode::50%25")
    assert "\r" not in command
