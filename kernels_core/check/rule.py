'''What a rule is, and how to write one.

A rule is a function of the facts of one scope. Its docstring says what is required, why, and how to
fix what breaks it:

    @rule(Scope.BUILD, Severity.ERROR)
    def layout_package(build: Build) -> Iterator[Problem]:
        """A build contains one package.

        Why: without it there is nothing to import.

        Fix: add an `__init__.py` to the variant's directory.
        """
        if not build.packages:
            yield Problem("has no __init__.py", build.path)

Its id is the name of the function with dashes: `layout-package`. The first word is its family. A
message continues a sentence about the path: "build/torch-cpu: has no __init__.py".

Rules read facts and never open files: `facts/` gathers them once, and expects untrusted input.
'''

from __future__ import annotations

import ast
import enum
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import attrs

_F = TypeVar("_F", bound=Callable[[Any], Iterable["Problem"]])

_PARTS = ("Why", "Fix")


class Severity(enum.Enum):
    """How serious it is when a rule is broken."""

    ERROR = "error"
    """The kernel does not load, or gives wrong results, somewhere that it claims to support."""

    WARNING = "warning"
    """The kernel works now, but something that users rely on is missing or may break."""


class Scope(enum.Enum):
    """What a rule judges, and so what its function receives."""

    REPOSITORY = "repository"
    """`facts.repository.Repository`, once."""

    BUILD = "build"
    """`facts.repository.Build`, for each directory under `build/`."""

    NATIVE = "native module"
    """`facts.native.NativeModule`, for each file of native code."""

    NATIVE_BUILD = "native code of a build"
    """`facts.native.NativeBuild`, for each build, after its files."""

    PYTHON = "Python file"
    """`facts.python_files.PythonFile`, for each file of Python source."""

    PACKAGE = "Python of a build"
    """`facts.operators.PythonPackage`, for each build, after its files."""

    PACKAGES = "operators of all builds"
    """A tuple of `facts.operators.Operators`, once, after all builds."""

    RUN = "run"
    """`facts.observation.Observation`, once, if the build for this machine is run."""


@attrs.frozen
class Problem:
    """One place where a rule is broken.

    Attributes:
        message: what is wrong there, with the names and values in question.
        path: the file or directory, relative to the repository, with `/`; "" for the repository.
        line: the line in the file, starting at 1.
        symbol: the name of a function, class, key or native symbol in the file.
    """

    message: str
    path: str = ""
    line: int | None = None
    symbol: str | None = None


@attrs.frozen
class Rule:
    """A rule for kernel repositories.

    Attributes:
        id: its name, for `--select` and `--ignore`.
        scope: what it judges.
        severity: how serious it is when it is broken.
        requirement: what is required.
        why: what happens otherwise.
        fix: what to do.
        judge: yields a problem for each place that breaks it.
    """

    id: str
    scope: Scope
    severity: Severity
    requirement: str
    why: str
    fix: str
    judge: Callable[[Any], Iterable[Problem]] = attrs.field(repr=False, eq=False)

    @property
    def family(self) -> str:
        """The first word of the id, shared by related rules."""
        return self.id.partition("-")[0]


registered: dict[str, Rule] = {}
"""All rules whose modules were imported, by id; `rules.all_rules` imports every module."""


def _docstring(function: Callable[..., object]) -> str:
    if function.__doc__ is None and sys.flags.optimize >= 2:  # Python left it out
        (parsed,) = ast.parse(inspect.getsource(function)).body
        assert isinstance(parsed, ast.FunctionDef)
        return ast.get_docstring(parsed) or ""
    return inspect.cleandoc(function.__doc__ or "")


def rule(scope: Scope, severity: Severity) -> Callable[[_F], _F]:
    """Make a function a rule. Raises `TypeError` for an incomplete docstring or a taken id."""

    def register(judge: _F) -> _F:
        name = judge.__name__.replace("_", "-")
        requirement, *rest = _docstring(judge).split("\n\n")
        parts = dict(_part(text) for text in rest)
        if tuple(parts) != _PARTS or not requirement:
            raise TypeError(f"the docstring of {name} must have a requirement, 'Why:' and 'Fix:'")
        if name in registered:
            raise TypeError(f"there are two rules {name}")
        registered[name] = Rule(
            name, scope, severity, _one_line(requirement), parts["Why"], parts["Fix"], judge
        )
        return judge

    return register


def _part(text: str) -> tuple[str, str]:
    title, _, content = text.partition(":")
    return title, _one_line(content)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def judged(rules: Iterable[Rule], scope: Scope, facts: object) -> Iterator[tuple[Rule, Problem]]:
    """Judge facts by the rules for their scope."""
    for each in rules:
        if each.scope is scope:
            for problem in each.judge(facts):
                yield each, problem


def some(names: Sequence[str], most: int = 8) -> str:
    """Names in a sentence: "a, b, c and 4 more"."""
    if not names:
        return "nothing in particular"
    listed = ", ".join(names[:most])
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"
