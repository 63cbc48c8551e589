"""Samples of calls, recorded while the tests of a repository run.

Nobody has to write samples for a check: the calls of operators and layers in the tests are used.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_MOST_SAMPLES = 3
_MOST_ELEMENTS = 1 << 24

_PLAIN = (torch.Tensor, torch.nn.Parameter)

# Much of this has no types in torch.
_Packet: Any = torch._ops.OpOverloadPacket
_Overload: Any = torch._ops.OpOverload
_Mode: Any = TorchDispatchMode


@attrs.frozen
class Call:
    """The arguments of a call, copied.

    Attributes:
        args: positional ones; of a layer without the module.
        kwargs: keyword arguments.
        module: the layer that was called, copied.
        elements: the number of elements of all tensors.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    module: torch.nn.Module | None
    elements: int

    def fresh(self) -> Call:
        """Another copy, for a call that may change its arguments."""
        args, kwargs = _copied((self.args, self.kwargs))
        return Call(args, kwargs, copy.deepcopy(self.module), self.elements)


class Samples:
    """The recorded calls of layers, and of the operators in the kernel's namespaces."""

    def __init__(self, namespaces: set[str]) -> None:
        self._namespaces = namespaces
        self._calls: dict[Any, dict[Any, Call]] = {}

    @contextlib.contextmanager
    def recorded(self, layers: Mapping[str, Any]) -> Iterator[None]:
        """Record calls within the context."""
        with contextlib.ExitStack() as stack:
            for kind in (_Packet, _Overload):
                stack.enter_context(_replaced(kind, "__call__", self._seen(kind.__call__)))
            for layer in layers.values():
                replacement = self._seen_layer(layer, layer.forward)
                stack.enter_context(_replaced(layer, "forward", replacement))
            yield

    def _seen(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def seen(operator: Any, /, *args: Any, **kwargs: Any) -> Any:
            own = None if torch.compiler.is_compiling() else self._own(operator)
            if own is None:
                return call(operator, *args, **kwargs)
            with self._seeing(own, args, kwargs, None):
                return call(operator, *args, **kwargs)

        return seen

    def _seen_layer(self, layer: Any, forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def seen(module: Any, /, *args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return forward(module, *args, **kwargs)
            with self._seeing(layer, args, kwargs, module):
                return forward(module, *args, **kwargs)

        return seen

    def watching(self) -> Any:
        """A mode that records all operators called within it, however they are called."""

        def dispatch(mode: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            own = self._own(func)
            if own is None:
                return func(*args, **(kwargs or {}))
            with self._seeing(own, args, kwargs or {}, None):
                return func(*args, **(kwargs or {}))

        return type("Watching", (_Mode,), {"__torch_dispatch__": dispatch})()

    def _own(self, operator: Any) -> Any:
        """The overload that is called, if it is one of the kernel's; otherwise None."""
        if isinstance(operator, _Packet):
            if operator._qualified_op_name.partition("::")[0] not in self._namespaces:
                return None
            overloads = operator.overloads()
            return getattr(operator, overloads[0]) if len(overloads) == 1 else None
        return operator if operator.namespace in self._namespaces else None

    @contextlib.contextmanager
    def _seeing(
        self, what: Any, args: tuple[Any, ...], kwargs: dict[str, Any], module: Any
    ) -> Iterator[None]:
        """Keep a copy of a call from before it, if it succeeds: tests also try invalid ones."""
        leaves = [*tree_leaves((args, kwargs)), *(module.parameters() if module else ())]
        key = tuple(_kind(leaf) for leaf in leaves)
        call = self._copied(what, key, leaves, (args, kwargs), module)
        yield
        if call is not None:
            self._calls.setdefault(what, {})[key] = call

    def _copied(
        self, what: Any, key: Any, leaves: list[Any], arguments: Any, module: Any
    ) -> Call | None:
        """A copy of a call; None where there are enough similar or smaller ones."""
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        elements = sum(tensor.numel() for tensor in tensors)
        if elements > _MOST_ELEMENTS or any(type(tensor) not in _PLAIN for tensor in tensors):
            return None
        calls = self._calls.get(what, {})
        if key in calls:
            return None
        if len(calls) >= _MOST_SAMPLES:
            largest = max(calls, key=lambda each: calls[each].elements)
            if calls[largest].elements <= elements:
                return None
            del calls[largest]
        with contextlib.suppress(Exception):  # a module that cannot be copied cannot be a sample
            kept = copy.deepcopy(module) if module is not None else None
            args, kwargs = _copied(arguments)
            return Call(args, kwargs, kept, elements)
        return None

    def of(self, what: Any) -> list[Call]:
        """The recorded calls of a layer or an overload, those with the least data first."""
        return sorted(self._calls.get(what, {}).values(), key=lambda call: call.elements)

    def overloads(self) -> list[Any]:
        """The overloads of operators with recorded calls."""
        return [each for each in self._calls if isinstance(each, _Overload)]


@contextlib.contextmanager
def _replaced(holder: Any, name: str, value: Any) -> Iterator[None]:
    own = name in holder.__dict__
    before = holder.__dict__.get(name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        if own:
            setattr(holder, name, before)
        else:
            delattr(holder, name)


def _kind(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        return tuple(leaf.shape), leaf.dtype, leaf.requires_grad
    return leaf if isinstance(leaf, (bool, int, float, str)) else type(leaf)


def _copied(values: Any) -> Any:
    def copied(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value.detach().clone().requires_grad_(value.requires_grad)

    return tree_map(copied, values)
