"""A machine's answers in place of the functions that ask the machine."""

from __future__ import annotations

import contextlib
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any
from unittest import mock

import attrs

from kernels_core.host import HostInfo
from kernels_core.plugins import backend


@contextlib.contextmanager
def replaced(module: ModuleType, functions: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Replace functions of a module for a while.

    Args:
        module: the module whose functions ask the machine.
        functions: the replacements, by name.

    Raises:
        ValueError: the module has no such function.
    """
    for name in functions:
        if not callable(getattr(module, name, None)):
            raise ValueError(
                f"a recorded machine has an answer for {name!r}, and {module.__name__} has no "
                f"such function"
            )
    with contextlib.ExitStack() as stack:
        for name, function in functions.items():
            stack.enter_context(mock.patch.object(module, name, function))
        yield


def on_host(host: HostInfo) -> contextlib.AbstractContextManager[None]:
    """Have the facade believe for a while that it runs on a host.

    Args:
        host: the host.
    """
    return replaced(backend, {"host_info": lambda: host})


def answers(module: ModuleType, recorded: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
    """Functions that return what was recorded, in the types of the real ones.

    A JSON object becomes the class that the real function's return annotation names, or else an
    object with these attributes; an array in it becomes a tuple.

    Args:
        module: the module with the real functions.
        recorded: by name of a function, what it returned; a list where it takes a device index.
    """

    def make(name: str, value: Any) -> Callable[..., Any]:
        kind = _returned_class(getattr(module, name, None))

        def answer(*index: int) -> Any:
            chosen = value[min(index[0], len(value) - 1)] if index else value
            return _value(chosen, kind)

        return answer

    return {name: make(name, value) for name, value in recorded.items()}


def failing(
    module: ModuleType, error: BaseException, asked: set[str]
) -> dict[str, Callable[..., Any]]:
    """Functions that raise, one for each public function that the module defines.

    Args:
        module: the module with the real functions.
        error: what they raise.
        asked: takes up the names of those that were called.
    """

    def make(name: str) -> Callable[..., Any]:
        def fail(*arguments: object, **keywords: object) -> Any:
            asked.add(name)
            raise error

        return fail

    return {
        name: make(name)
        for name, value in vars(module).items()
        if isinstance(value, types.FunctionType)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }


def _returned_class(function: object) -> type:
    """The class that a function says it returns, be it beside None."""
    try:
        returned = typing.get_type_hints(function).get("return")
    except (AttributeError, NameError, TypeError):  # a builtin, or names for type checkers only
        returned = None
    for kind in typing.get_args(returned) or (returned,):
        if isinstance(kind, type) and (attrs.has(kind) or hasattr(kind, "__dataclass_fields__")):
            return kind
    return types.SimpleNamespace


def _value(recorded: Any, kind: type) -> Any:
    if isinstance(recorded, dict):
        return kind(**{name: _plain(value) for name, value in recorded.items()})
    return _plain(recorded)


def _plain(recorded: Any) -> Any:
    return tuple(map(_plain, recorded)) if isinstance(recorded, list) else recorded
