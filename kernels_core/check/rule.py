'''What a rule is, and all of them.

A rule is a function of one scope's facts. Its docstring says what is demanded, why, and how to mend
what breaks it:

    @rule(Scope.BUILD, Severity.ERROR)
    def layout_package(build: Build) -> Iterator[Problem]:
        """A build holds one package.

        Why: without it there is nothing to import.

        Mend: put an `__init__.py` into the variant's directory.
        """
        if not build.packages:
            yield Problem("has no __init__.py", build.path)

Its id is the name of the function with dashes: `layout-package`. The first word is its family.
Rules read facts and never open files of their own: facts are gathered once, in one place, by code
that is made for hostile input.
'''

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import attrs

_F = TypeVar("_F", bound=Callable[[Any], Iterable["Problem"]])

_PARTS = ("Why", "Mend")


class Severity(enum.Enum):
    """How bad it is when a rule is broken."""

    ERROR = "error"
    """Somewhere that the repository claims to work, it does not load, or computes wrongly."""

    WARNING = "warning"
    """It works today, but something that people rely on is missing or will break."""


class Scope(enum.Enum):
    """What a rule judges, and so what its function is given."""

    REPOSITORY = "repository"
    """`facts.repository.Repository`, once."""

    BUILD = "build"
    """`facts.repository.Build`, for each directory under `build/`."""

    NATIVE = "native module"
    """`facts.native.NativeModule`, for each file of native code."""

    NATIVE_BUILD = "native code of a build"
    """`facts.native.NativeBuild`, for each build, after its files."""

    PYTHON = "Python file"
    """`facts.python_files.PythonFile`, for each file of Python source that can be parsed."""

    PACKAGE = "Python of a build"
    """`facts.operators.PythonPackage`, for each build, after its files."""

    PACKAGES = "operators of all builds"
    """A tuple of `facts.operators.Operators`, once, after all builds."""

    RUN = "run"
    """`facts.observation.Observation`, once, when the build for this machine is run."""


@attrs.frozen
class Problem:
    """One place where a rule is broken.

    Attributes:
        message: what is wrong there, with the names and values in question.
        path: the file or directory, relative to the repository, with `/`; "" for the repository.
        line: the line in the file, counted from 1.
        symbol: the name in the file: of a function, a class, a symbol of native code, a key.
    """

    message: str
    path: str = ""
    line: int | None = None
    symbol: str | None = None


@attrs.frozen
class Rule:
    """A rule that a kernel repository must fulfil.

    Attributes:
        id: its name, for `--select` and `--ignore`.
        scope: what it judges.
        severity: how bad it is when it is broken.
        demand: what is demanded.
        why: what happens otherwise.
        mend: what to do.
        judge: yields a problem for each place that breaks it.
    """

    id: str
    scope: Scope
    severity: Severity
    demand: str
    why: str
    mend: str
    judge: Callable[[Any], Iterable[Problem]] = attrs.field(repr=False, eq=False)

    @property
    def family(self) -> str:
        """The first word of the id, which rules of one kind share."""
        return self.id.partition("-")[0]


registered: dict[str, Rule] = {}
"""All rules whose modules were imported, by id; `rules.all_rules` imports every module."""


def rule(scope: Scope, severity: Severity) -> Callable[[_F], _F]:
    """Make a rule of a function; see the module's docstring.

    Args:
        scope: what the function takes.
        severity: how bad it is when the rule is broken.

    Raises:
        TypeError: the docstring lacks a part, or another rule has the id.
    """

    def register(judge: _F) -> _F:
        name = judge.__name__.replace("_", "-")
        demand, *rest = inspect.cleandoc(judge.__doc__ or "").split("\n\n")
        parts = dict(_part(text) for text in rest)
        if tuple(parts) != _PARTS or not demand:
            raise TypeError(f"the docstring of rule {name} must have a demand, 'Why:' and 'Mend:'")
        if name in registered:
            raise TypeError(f"there are two rules {name}")
        registered[name] = Rule(
            name, scope, severity, _one_line(demand), parts["Why"], parts["Mend"], judge
        )
        return judge

    return register


def _part(text: str) -> tuple[str, str]:
    title, _, content = text.partition(":")
    return title, _one_line(content)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def judged(rules: Iterable[Rule], scope: Scope, facts: object) -> Iterator[tuple[Rule, Problem]]:
    """Judge facts by those of the rules that are for their scope.

    Args:
        rules: the rules.
        scope: what the facts are about.
        facts: what the rules' functions take.
    """
    for each in rules:
        if each.scope is scope:
            for problem in each.judge(facts):
                yield each, problem


def some(names: Sequence[str], most: int = 8) -> str:
    """Names in a sentence, the first few of many.

    Args:
        names: the names.
        most: how many of them to write.

    Example:
        >>> some(["a", "b", "c", "d"]), some(["a", "b", "c", "d"], 3), some([])
        ('a, b, c, d', 'a, b, c and 1 more', 'nothing in particular')
    """
    if not names:
        return "nothing in particular"
    listed = ", ".join(names[:most])
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"
