"""A report of `check` for programs: JSON, SARIF 2.1.0, and the workflow commands of GitHub."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

from kernels_core.check.report import Finding, Report
from kernels_core.check.rule import Rule, Severity
from kernels_core.check.rules_page import address, link
from kernels_core.cli.check_text import broken_rules, printable

_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"

# The path of findings about the whole repository.
_WHOLE = "build"


def as_json(report: Report) -> dict[str, Any]:
    """A report as one JSON object."""
    errors = len(report.errors)
    return {
        "subject": report.subject,
        "clean": report.clean,
        "counts": {
            "errors": errors,
            "warnings": len(report.findings) - errors,
            "builds": len(report.variants),
            "native_modules": report.native_modules,
            "python_files": report.python_files,
        },
        "findings": [_finding(finding) for finding in report.findings],
        "rules": {rule.id: rule_as_json(rule) for rule in broken_rules(report)},
        "variants": list(report.variants),
        "not_judged": list(report.not_judged),
    }


def rule_as_json(rule: Rule) -> dict[str, str]:
    """A rule as a JSON object."""
    return {
        "severity": rule.severity.value,
        "scope": rule.scope.value,
        "requirement": rule.requirement,
        "why": rule.why,
        "fix": rule.fix,
        "docs": link(rule),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "rule": finding.rule.id,
        "severity": finding.rule.severity.value,
        "variant": finding.variant,
        "path": finding.problem.path,
        "line": finding.problem.line,
        "symbol": finding.problem.symbol,
        "message": finding.problem.message,
    }


# SARIF


def as_sarif(report: Report) -> dict[str, Any]:
    """A report as a log of SARIF 2.1.0, with paths as in `shown_path`."""
    rules = broken_rules(report)
    indices = {rule.id: index for index, rule in enumerate(rules)}
    driver = {
        "name": "kernels-core check",
        "version": version("kernels-core"),
        "rules": [_sarif_rule(rule) for rule in rules],
    }
    notes = [{"level": "note", "message": {"text": note}} for note in report.not_judged]
    return {
        "$schema": _SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": notes}],
                "results": [_sarif_result(each, indices, report) for each in report.findings],
            }
        ],
    }


def _sarif_rule(rule: Rule) -> dict[str, Any]:
    said = {
        "id": rule.id,
        "shortDescription": {"text": rule.requirement},
        "fullDescription": {"text": f"{rule.requirement} Why: {rule.why}"},
        "help": {
            "text": f"Why: {rule.why} Fix: {rule.fix}",
            "markdown": f"{rule.requirement}\n\n**Why:** {rule.why}\n\n**Fix:** {rule.fix}",
        },
        "defaultConfiguration": {"level": rule.severity.value},
        "properties": {"tags": [rule.family]},
    }
    return said | ({"helpUri": found} if (found := address(rule)) else {})


def _sarif_result(finding: Finding, indices: dict[str, int], report: Report) -> dict[str, Any]:
    problem = finding.problem
    path = os.fsencode(shown_path(problem.path, report))
    physical: dict[str, Any] = {"artifactLocation": {"uri": quote_from_bytes(path)}}
    if problem.line is not None:
        physical["region"] = {"startLine": max(problem.line, 1)}
    location: dict[str, Any] = {"physicalLocation": physical}
    if problem.symbol:
        location["logicalLocations"] = [{"fullyQualifiedName": problem.symbol}]
    return {
        "ruleId": finding.rule.id,
        "ruleIndex": indices[finding.rule.id],
        "level": finding.rule.severity.value,
        "message": {"text": problem.message},
        "locations": [location],
    }


def shown_path(path: str, report: Report) -> str:
    """A path of a finding relative to the working directory, the checkout on a build server.

    Elsewhere and on the Hub, it stays relative to the kernel repository.
    """
    path = path or _WHOLE
    if report.root is None:
        return path
    try:
        below = Path(report.root).relative_to(Path.cwd())
    except ValueError:
        return path
    return (below / path).as_posix()


# GitHub


def as_github(report: Report) -> str:
    """A report as workflow commands, which GitHub shows next to the lines that they refer to."""
    return "\n".join([*(_command(each, report) for each in report.findings), _last_line(report)])


def _command(finding: Finding, report: Report) -> str:
    problem = finding.problem
    command = "error" if finding.rule.severity is Severity.ERROR else "warning"
    path = printable(shown_path(problem.path, report))
    properties = {"file": path, "title": finding.rule.id}
    if problem.line is not None:
        properties["line"] = str(problem.line)
    listed = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    named = problem.symbol is None or problem.symbol in problem.message
    symbol = "" if named else f"{problem.symbol}: "
    message = f"{symbol}{problem.message.rstrip('.')}. Fix: {finding.rule.fix}"
    return f"::{command} {listed}::{_data(printable(message))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _last_line(report: Report) -> str:
    errors = len(report.errors)
    warnings = len(report.findings) - errors
    # A line that begins with :: would be a command.
    found = f"{errors} error{_plural(errors)}, {warnings} warning{_plural(warnings)}"
    return f"kernels-core check: {found}"


def _plural(count: int) -> str:
    return "" if count == 1 else "s"
