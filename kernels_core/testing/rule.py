"""What a rule is, and what its failure says."""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import pytest

from kernels_core.errors import PluginError

_F = TypeVar("_F", bound=Callable[..., None])


class BrokenRuleError(Exception):
    """What breaks a rule."""


def fail(problem: str) -> NoReturn:
    """Fail the rule that is being checked, because of this."""
    raise BrokenRuleError(problem)


def skip(reason: str) -> NoReturn:
    """Skip the rule that is being checked, for this reason."""
    pytest.skip(reason)


def rule(method: _F) -> _F:
    """Make a rule of a test method, whose docstring is the contract and a paragraph `Fix: ...`.

    A `PluginError` that is raised while the rule is checked breaks it, too. The id of
    `test_tags_hostile` is `tags-hostile`.
    """
    contract, _, fix = inspect.cleandoc(method.__doc__ or "").partition("\n\nFix: ")
    if not fix:
        raise TypeError(f"{method.__qualname__} does not say how to fix a broken rule")
    name = method.__name__.removeprefix("test_").replace("_", "-")

    @functools.wraps(method)
    def check(self: Any, *arguments: Any, **keywords: Any) -> None:
        try:
            return method(self, *arguments, **keywords)
        except (BrokenRuleError, PluginError) as error:
            found = str(error)
        parts = {"contract": contract, "found": found, "fix": fix}
        lines = [f"Plugin {self.plugin!r} breaks the rule {name}."]
        lines += [f"{title:>10}: {_hang(text)}" for title, text in parts.items()]
        pytest.fail("\n".join(lines), pytrace=False)

    return check  # type: ignore[return-value] # it has the method's arguments


def _hang(text: str) -> str:
    return textwrap.indent(text, " " * 12).strip()
