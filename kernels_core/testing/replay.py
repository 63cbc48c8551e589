"""Replacing the functions that query the machine by what was recorded on another one."""

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
    """Replace functions of a module for a while; `ValueError` if it has no such function."""
    for name in functions:
        if not callable(getattr(module, name, None)):
            raise ValueError(
                f"a recorded machine has a value for {name!r}, but {module.__name__} has no such "
                f"function"
            )
    with contextlib.ExitStack() as stack:
        for name, function in functions.items():
            stack.enter_context(mock.patch.object(module, name, function))
        yield


def on_host(host: HostInfo) -> contextlib.AbstractContextManager[None]:
    """Make the facade use this host for a while."""
    return replaced(backend, {"host_info": lambda: host})


def answers(module: ModuleType, recorded: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
    """Functions that return what was recorded, in the types of the real ones.

    A JSON object becomes the class that the real function's return annotation names, or else an
    object with these attributes; an array in it becomes a tuple.
    """

    def make(name: str, value: Any) -> Callable[..., Any]:
        kind = _returned_class(getattr(module, name, None))

        def answer(*index: int) -> Any:
            chosen = value[min(index[0], len(value) - 1)] if index else value
            return _value(chosen, kind)

        return answer

    return {name: make(name, value) for name, value in recorded.items()}


def failing(
    module: ModuleType, error: BaseException, called: set[str]
) -> dict[str, Callable[..., Any]]:
    """Raising functions for the public ones of a module; they add their names to `called`."""

    def make(name: str) -> Callable[..., Any]:
        def fail(*arguments: object, **keywords: object) -> Any:
            called.add(name)
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
    """The class in a function's return annotation, possibly in a union with None."""
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
