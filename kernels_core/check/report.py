"""What a check found."""

from __future__ import annotations

import attrs

from kernels_core.check.rule import Problem, Rule, Severity


@attrs.frozen
class Finding:
    """A place in a repository that breaks a rule.

    Attributes:
        rule: the rule, which says why it matters and how to fix it.
        problem: what is wrong, and where.
        variant: the build that it is in; None when it is not about a single one.
    """

    rule: Rule
    problem: Problem
    variant: str | None = None


@attrs.frozen
class Report:
    """What a check of a repository found.

    Attributes:
        subject: what was checked: a path, or a repository on the Hub with its commit.
        findings: what breaks rules, sorted by build, path and line.
        variants: the builds that were checked.
        native_modules: how many files of native code were read.
        python_files: how many files of Python source were read.
        not_judged: what could not be judged although it was requested, each with its reason.
        root: the directory that paths in findings are relative to; None on the Hub.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from kernels_core.check import check
        >>> build = Path(tempfile.mkdtemp(), "build", "torch-universal")
        >>> build.mkdir(parents=True)
        >>> report = check(build, select=["layout"])
        >>> report.clean, [finding.rule.id for finding in report.errors]
        (False, ['layout-package'])
    """

    subject: str
    findings: tuple[Finding, ...]
    variants: tuple[str, ...] = ()
    native_modules: int = 0
    python_files: int = 0
    not_judged: tuple[str, ...] = ()
    root: str | None = None

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that are errors."""
        return tuple(each for each in self.findings if each.rule.severity is Severity.ERROR)
