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
    """What was found that breaks a rule."""


def broken(problem: str) -> NoReturn:
    """Fail the rule that is being judged, because of this."""
    raise BrokenRuleError(problem)


def unjudged(reason: str) -> NoReturn:
    """Leave the rule that is being judged undecided, for this reason."""
    pytest.skip(reason)


def rule(method: _F) -> _F:
    """Make a rule of a test method whose docstring says what the contract is and how to mend it.

    The docstring has the contract first, and then a paragraph that begins with `Mend:`. What the
    plugin raises while the rule is judged breaks it, too. The id of `test_tags_hostile` is
    `tags-hostile`.
    """
    contract, _, mend = inspect.cleandoc(method.__doc__ or "").partition("\n\nMend: ")
    if not mend:
        raise TypeError(f"{method.__qualname__} does not say how to mend what breaks it")
    name = method.__name__.removeprefix("test_").replace("_", "-")

    @functools.wraps(method)
    def judge(self: Any, *arguments: Any, **keywords: Any) -> None:
        try:
            return method(self, *arguments, **keywords)
        except (BrokenRuleError, PluginError) as error:
            found = str(error)
        parts = {"contract": contract, "found": found, "mend": mend}
        lines = [f"Plugin {self.plugin!r} breaks the rule {name}."]
        lines += [f"{title:>10}: {_hang(text)}" for title, text in parts.items()]
        pytest.fail("\n".join(lines), pytrace=False)

    return judge  # type: ignore[return-value] # it takes what the method takes


def _hang(text: str) -> str:
    return textwrap.indent(text, " " * 12).strip()
