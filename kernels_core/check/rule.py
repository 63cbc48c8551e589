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
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import attrs

_F = TypeVar("_F", bound=Callable[[Any], Iterable["Problem"]])

# The modules that hold rules, in the order in which they are listed.
_MODULES = ("layout", "completeness", "metadata", "native", "python", "namespace", "layers", "run")

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
    """`subject.Repository`, once."""

    BUILD = "build"
    """`subject.Build`, for each directory under `build/`."""

    NATIVE = "native module"
    """`native.facts.NativeModule`, for each file of native code."""

    NATIVE_BUILD = "native code of a build"
    """`native.facts.NativeBuild`, for each build, after its files."""

    PYTHON = "Python file"
    """`python_files.PythonFile`, for each file of Python source that can be parsed."""

    PACKAGE = "Python of a build"
    """`operators.PythonPackage`, for each build, after its files."""

    PACKAGES = "operators of all builds"
    """A tuple of `operators.Operators`, once, after all builds."""

    RUN = "run"
    """`run_facts.Observation`, once, when the build for this machine is run."""


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


_rules: dict[str, Rule] = {}


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
        if name in _rules:
            raise TypeError(f"there are two rules {name}")
        _rules[name] = Rule(
            name, scope, severity, _one_line(demand), parts["Why"], parts["Mend"], judge
        )
        return judge

    return register


def _part(text: str) -> tuple[str, str]:
    title, _, content = text.partition(":")
    return title, _one_line(content)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def all_rules() -> tuple[Rule, ...]:
    """Every rule, family by family.

    Example:
        >>> from kernels_core.check import all_rules
        >>> all_rules()[0].family
        'layout'
    """
    for module in _MODULES:
        importlib.import_module(f"kernels_core.check.rules.{module}")
    return tuple(sorted(_rules.values(), key=_module))


def _module(rule: Rule) -> int:
    """The place of the module or package that a rule stands in, whichever was imported first."""
    name = rule.judge.__module__.removeprefix("kernels_core.check.rules.")
    return _MODULES.index(name.partition(".")[0])


def chosen_rules(select: Iterable[str] = (), ignore: Iterable[str] = ()) -> tuple[Rule, ...]:
    """The rules to judge by.

    Args:
        select: ids or families; empty for all rules.
        ignore: ids or families to leave out of these.

    Raises:
        ValueError: there is no such rule or family.

    Example:
        >>> from kernels_core.check.rule import chosen_rules
        >>> {rule.family for rule in chosen_rules(["layout", "metadata"], ["layout"])}
        {'metadata'}
    """
    rules = all_rules()
    known = {name for each in rules for name in (each.id, each.family)}
    wanted, unwanted = set(select), set(ignore)
    for name in sorted((wanted | unwanted) - known):
        raise ValueError(f"there is no rule or family {name!r}; {_near(name, known)}")
    return tuple(
        each
        for each in rules
        if (not wanted or {each.id, each.family} & wanted) and not {each.id, each.family} & unwanted
    )


def _near(name: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known)
    return f"did you mean {' or '.join(near)}?" if near else "--list-rules shows them"


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
