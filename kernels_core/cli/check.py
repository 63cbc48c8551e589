"""`kernels-core check`: whether a kernel repository would load everywhere that it claims to.

check_text.py prints the result for people, check_formats.py for programs.
"""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import click

from kernels_core.check.checking import check
from kernels_core.check.report import Report
from kernels_core.check.rule import Rule
from kernels_core.check.rules import all_rules, selected_rules
from kernels_core.cli.check_formats import as_github, as_json, as_sarif, rule_as_json
from kernels_core.cli.check_text import as_text, printable
from kernels_core.cli.output import as_table
from kernels_core.cli.program import Failure, is_quiet
from kernels_core.errors import CheckError, EnvironmentVariableError

# So that it fits on one line of a terminal.
_WIDTH = 78

COULD_NOT_CHECK = 2


def names(given: Iterable[str]) -> list[str]:
    """Names that were given one by one or separated by commas."""
    return [name.strip() for text in given for name in text.split(",") if name.strip()]


def checked(subject: str, *, select: Iterable[str], ignore: Iterable[str], **how: Any) -> Report:
    """Check something. Any failure ends the program with status 2."""
    select, ignore = names(select), names(ignore)
    try:
        selected_rules(select, ignore)
    except ValueError as error:
        raise click.UsageError(f"{error}.") from None
    try:
        with progress_line() as progress:
            return check(subject, select=select, ignore=ignore, progress=progress, **how)
    except (CheckError, EnvironmentVariableError) as error:
        raise _failure(printable(str(error)), error) from None
    except Exception as error:
        # Python would exit with status 1, which means that the check found something.
        click.echo(traceback.format_exc(), err=True, nl=False)
        raise _failure(f"{subject} could not be checked.", error) from None


def _failure(message: str, error: Exception) -> Failure:
    return Failure(message, kind=type(error).__name__, status=COULD_NOT_CHECK)


def rendered(report: Report, output: str, *, colour: bool = False) -> str:
    """A report in one of the formats: "text", "json", "sarif" or "github"."""
    if output == "json":
        return json.dumps(as_json(report), indent=2)
    if output == "sarif":
        return json.dumps(as_sarif(report), indent=2)
    if output == "github":
        return as_github(report)
    return as_text(report, colour=colour)


def rules_as(output: str) -> str:
    """All rules, as JSON or else as a table."""
    if output == "json":
        return json.dumps({rule.id: rule_as_json(rule) for rule in all_rules()}, indent=2)
    return as_table(["rule", "severity", "requirement"], map(_row, all_rules()))


def _row(rule: Rule) -> tuple[str, str, str]:
    return rule.id, rule.severity.value, rule.requirement


@contextlib.contextmanager
def progress_line() -> Iterator[Callable[[str, int, int], None] | None]:
    """A line that shows what is being checked, on standard error if that is a terminal."""
    if is_quiet() or not sys.stderr.isatty():
        yield None
        return

    def show(what: str, done: int, count: int) -> None:
        line = f"[{done}/{count}] {printable(what)}"
        sys.stderr.write(f"\r\x1b[K{line[:_WIDTH]}")
        sys.stderr.flush()

    try:
        yield show
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
