"""A report of `check` for people.

A repository has up to a hundred builds, made by one build system, so a problem is usually in many
of them. A finding is shown once for all builds that have it, and the reason once for each rule.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import attrs
import click

from kernels_core.check.report import Finding, Report
from kernels_core.check.rule import Rule, Severity
from kernels_core.check.rules_page import link

# Of one rule, in the whole report; `--format json` lists all.
_SHOWN_OF_RULE = 20
_SHOWN_BUILDS = 3
_WIDTH = 100

_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow"}


def as_text(report: Report, *, colour: bool = False) -> str:
    """A report for people."""
    style = _Style(colour)
    parts = [*_groups(report, style), *_rules(report, style), _notes(report), _summary(report)]
    return "\n\n".join(filter(None, parts))


def printable(text: str) -> str:
    """Text as a terminal can show it safely: names of files may contain control characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@attrs.frozen
class _Style:
    colour: bool

    def __call__(self, text: str, **how: object) -> str:
        return click.style(text, **how) if self.colour else text  # type: ignore[arg-type]


@attrs.frozen
class _Line:
    """A finding that is the same in all builds that have it."""

    rule: Rule
    where: str
    message: str


def _groups(report: Report, style: _Style) -> Iterator[str]:
    """The findings, grouped by the builds that have them."""
    builds: dict[_Line, list[str | None]] = {}
    for finding in report.findings:
        found_in = builds.setdefault(_line(finding), [])
        if finding.variant not in found_in:
            found_in.append(finding.variant)
    groups: dict[tuple[str | None, ...], list[_Line]] = {}
    for line, found_in in builds.items():
        groups.setdefault(tuple(found_in), []).append(line)
    shown: dict[str, int] = {}
    for variants, lines in groups.items():
        texts = []
        for line in lines:
            shown[line.rule.id] = shown.get(line.rule.id, 0) + 1
            if shown[line.rule.id] <= _SHOWN_OF_RULE:
                texts.append(_finding(line, style))
        if texts:
            yield "\n".join([style(_heading(variants, report), bold=True), *texts])
    for rule_id, count in shown.items():
        if count > _SHOWN_OF_RULE:
            yield f"... and {count - _SHOWN_OF_RULE} more of {rule_id}; --format json lists all."


def _line(finding: Finding) -> _Line:
    problem, variant = finding.problem, finding.variant
    path, message = problem.path, problem.message
    if variant is not None:
        # Relative to the build, so that it reads the same for every one.
        path = path.removeprefix(f"build/{variant}").removeprefix("/")
        message = message.replace(f"build/{variant}/", "")
    where = path + (f":{problem.line}" if problem.line is not None else "")
    if problem.symbol:
        where = f"{where} ({problem.symbol})" if where else problem.symbol
    return _Line(finding.rule, where, message)


def _heading(variants: tuple[str | None, ...], report: Report) -> str:
    names = [printable(name) for name in variants if name is not None]
    if not names:
        return printable(report.subject)
    if len(names) == 1:
        return f"build/{names[0]}"
    more = len(names) - _SHOWN_BUILDS
    listed = ", ".join(names[:_SHOWN_BUILDS]) + (f" and {more} more" if more > 0 else "")
    return f"{len(names)} of {len(report.variants)} builds: {listed}"


def _finding(line: _Line, style: _Style) -> str:
    severity = style(f"{line.rule.severity.value:<7}", fg=_COLOURS[line.rule.severity])
    where = f"{printable(line.where)}: " if line.where else ""
    return f"  {severity}  {line.rule.id}  {where}{printable(line.message)}"


def _rules(report: Report, style: _Style) -> Iterator[str]:
    for rule in broken_rules(report):
        heading = style(f"{rule.id} ({rule.severity.value})", bold=True)
        texts = [rule.requirement, f"Why: {rule.why}", f"Fix: {rule.fix}", link(rule)]
        yield "\n".join([heading, *(_wrapped(text) for text in texts)])


def broken_rules(report: Report) -> tuple[Rule, ...]:
    """The rules with findings, each once, in the order of findings."""
    return tuple({finding.rule.id: finding.rule for finding in report.findings}.values())


def _wrapped(text: str) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _notes(report: Report) -> str:
    return "\n".join(f"Not judged: {printable(note)}" for note in report.not_judged)


def _summary(report: Report) -> str:
    checked = _listed(
        (len(report.variants), "build"),
        (report.native_modules, "native module"),
        (report.python_files, "Python file"),
    )
    errors = len(report.errors)
    found = _listed((errors, "error"), (len(report.findings) - errors, "warning"))
    return f"{printable(report.subject)}: {found or 'no problems'}, in {checked or 'no files'}"


def _listed(*counts: tuple[int, str]) -> str:
    return ", ".join(f"{count} {noun}{'s' if count > 1 else ''}" for count, noun in counts if count)
