"""Samples of calls, recorded while the tests of a repository run, and what is proved with them.

Nobody has to write samples for a check: what the tests call operators and layers with will do.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

Tell = Callable[..., None]

_MOST_SAMPLES = 3
_MOST_ELEMENTS = 1 << 24

_PLAIN = (torch.Tensor, torch.nn.Parameter)

# Much of this is without types in torch.
_Packet: Any = torch._ops.OpOverloadPacket
_Overload: Any = torch._ops.OpOverload
_Mode: Any = TorchDispatchMode


@attrs.frozen
class Call:
    """The arguments of a call, copied.

    Attributes:
        args: by position; of a layer without the module.
        kwargs: by keyword.
        module: the layer that was called, copied.
        elements: how many elements all tensors have.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    module: torch.nn.Module | None
    elements: int

    def fresh(self) -> Call:
        """The same once more, for a call that may change its arguments."""
        args, kwargs = _copied((self.args, self.kwargs))
        return Call(args, kwargs, copy.deepcopy(self.module), self.elements)


class Samples:
    """The calls of operators and of layers that were seen.

    Args:
        namespaces: the namespaces of the kernel's operators.
    """

    def __init__(self, namespaces: set[str]) -> None:
        self._namespaces = namespaces
        self._calls: dict[Any, dict[Any, Call]] = {}

    @contextlib.contextmanager
    def recorded(self, layers: Mapping[str, Any]) -> Iterator[None]:
        """Record calls within.

        Args:
            layers: the layers, by name.
        """
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
            if not torch.compiler.is_compiling():
                self.see(operator, args, kwargs)
            return call(operator, *args, **kwargs)

        return seen

    def _seen_layer(self, layer: Any, forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def seen(module: Any, /, *args: Any, **kwargs: Any) -> Any:
            if not torch.compiler.is_compiling():
                self._add(layer, args, kwargs, module)
            return forward(module, *args, **kwargs)

        return seen

    def see(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record a call of an operator, if it is one of the kernel's.

        Args:
            operator: an overload, or what stands for all overloads of a name.
            args: by position.
            kwargs: by keyword.
        """
        if isinstance(operator, _Packet):
            overloads = operator.overloads()
            if operator._qualified_op_name.partition("::")[0] not in self._namespaces:
                return
            if len(overloads) != 1:
                return
            operator = getattr(operator, overloads[0])
        if operator.namespace in self._namespaces:
            self._add(operator, args, kwargs, None)

    def _add(self, what: Any, args: tuple[Any, ...], kwargs: dict[str, Any], module: Any) -> None:
        leaves = [*tree_leaves((args, kwargs)), *(module.parameters() if module else ())]
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        elements = sum(tensor.numel() for tensor in tensors)
        if elements > _MOST_ELEMENTS or any(type(tensor) not in _PLAIN for tensor in tensors):
            return
        key = tuple(_kind(leaf) for leaf in leaves)
        calls = self._calls.setdefault(what, {})
        if key in calls:
            return
        if len(calls) >= _MOST_SAMPLES:
            largest = max(calls, key=lambda each: calls[each].elements)
            if calls[largest].elements <= elements:
                return
            del calls[largest]
        with contextlib.suppress(Exception):  # a module that cannot be copied is no sample
            kept = copy.deepcopy(module) if module is not None else None
            args, kwargs = _copied((args, kwargs))
            calls[key] = Call(args, kwargs, kept, elements)

    def prove(self, layers: Mapping[str, Any], operators: Iterable[str], tell: Tell) -> None:
        """Try what operators and layers claim, with the calls that were seen.

        Args:
            layers: the layers, by name.
            operators: the names of the kernel's operators, "namespace::name".
            tell: is told of `opcheck`, `compile` and `gradient` with what failed, and of
                `unproved` with what there is no sample of.
        """
        for layer in layers.values():
            for call in self._of(layer):
                with contextlib.suppress(Exception), _watching(self):
                    _run(call, grad=True)
        for name, layer in layers.items():
            self._prove_layer(name, layer, tell)
        tried = set()
        for operator in [each for each in self._calls if isinstance(each, _Overload)]:
            tried.add(operator.name().partition(".")[0])
            for call in self._of(operator):
                tell("begin", kind="opcheck", what=operator.name())
                problem = _opcheck(operator, call)
                if problem:
                    tell("opcheck", name=operator.name(), text=problem)
                    break
        for name in sorted(set(operators) - tried):
            tell("unproved", what=f"operator {name}", why="no test called it")

    def _of(self, what: Any) -> list[Call]:
        return sorted(self._calls.get(what, {}).values(), key=lambda call: call.elements)

    def _prove_layer(self, name: str, layer: Any, tell: Tell) -> None:
        backward = getattr(layer, "has_backward", True)
        compiles = getattr(layer, "can_torch_compile", False)
        calls = self._of(layer)
        if not calls and (backward or compiles):
            tell("unproved", what=f"layer {name}", why="no test called it")
        proofs: list[tuple[str, Callable[[Call], str]]] = []
        if compiles:
            proofs.append(("compile", functools.partial(_compile_problem, grad=backward)))
        if backward:
            proofs.append(("gradient", _gradient_problem))
        for kind, proof in proofs:
            for call in calls:
                tell("begin", kind=kind, what=name)
                try:
                    problem = proof(call)
                except Exception as error:
                    problem = _first_line(error)
                if problem:
                    tell(kind, name=name, text=problem)
                    break


def _watching(samples: Samples) -> Any:
    """A mode that records the operators that are called within, by whichever way."""

    def dispatch(mode: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        samples.see(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    return type("Watching", (_Mode,), {"__torch_dispatch__": dispatch})()


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


def _run(call: Call, *, grad: bool) -> Any:
    call = call.fresh()
    assert call.module is not None
    with torch.set_grad_enabled(grad):
        return call.module(*call.args, **call.kwargs)


def _opcheck(operator: Any, call: Call) -> str:
    results = torch.library.opcheck(operator, call.args, call.kwargs, raise_exception=False)
    failed = [(test, result) for test, result in results.items() if result != "SUCCESS"]
    if not failed:
        return ""
    test, result = failed[0]
    return f"{test}: {_first_line(result)}"


def _compile_problem(call: Call, *, grad: bool) -> str:
    expected, again = _run(call, grad=grad), _run(call, grad=grad)
    torch._dynamo.reset()
    fresh = call.fresh()
    # Inductor would need a compiler on this machine; whether its input can be traced, and keeps
    # its meaning, shows without.
    compiled = torch.compile(fresh.module, fullgraph=True, backend="aot_eager")
    with torch.set_grad_enabled(grad):
        result = compiled(*fresh.args, **fresh.kwargs)
    try:
        torch.testing.assert_close(again, expected, equal_nan=True)
    except AssertionError:
        return ""  # what is random cannot be compared
    try:
        torch.testing.assert_close(result, expected, equal_nan=True)
    except AssertionError as error:
        return f"compiled, it computes something else: {_first_line(error)}"
    return ""


def _gradient_problem(call: Call) -> str:
    call = call.fresh()
    leaves: list[Any] = [
        leaf
        for leaf in tree_leaves((call.args, call.kwargs))
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
    ]
    assert call.module is not None
    parameters: list[Any] = [each for each in call.module.parameters() if each.is_floating_point()]
    if not leaves and not parameters:
        return ""
    for leaf in (*leaves, *parameters):
        leaf.requires_grad_(True)
    with torch.enable_grad():
        # Not the leaves themselves: some kernels write into what they are given.
        args, kwargs = tree_map(
            lambda value: value.clone() if isinstance(value, torch.Tensor) else value,
            (call.args, call.kwargs),
        )
        results = [
            each
            for each in tree_leaves(call.module(*args, **kwargs))
            if isinstance(each, torch.Tensor) and each.is_floating_point()
        ]
        if not results:
            return ""
        if not any(each.requires_grad for each in results):
            return "the result has no gradient"
        weights = [_direction(each) for each in results]
        total = _weighted(results, weights)
        gradients = torch.autograd.grad(total, leaves + parameters, allow_unused=True)
    if all(each is None for each in gradients):
        return "no argument gets a gradient"
    return _wrong_gradient(call, leaves, gradients, weights)


def _weighted(results: list[Any], weights: list[Any]) -> Any:
    pairs = zip(results, weights, strict=True)
    return sum((result.double() * weight).sum() for result, weight in pairs)


def _direction(tensor: Any) -> Any:
    generator = torch.Generator().manual_seed(tensor.numel())
    return torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)


def _wrong_gradient(call: Call, leaves: list[Any], gradients: Any, weights: list[Any]) -> str:
    """Compare with the difference of two results, where that is exact enough to tell."""
    if any(leaf.dtype not in (torch.float32, torch.float64) for leaf in leaves):
        return ""
    directions = [_direction(leaf) for leaf in leaves]
    told = sum(
        (gradient.double() * direction).sum().item()
        for gradient, direction in zip(gradients, directions, strict=False)
        if gradient is not None
    )

    def slope(step: float) -> float:
        sides = []
        for sign in (step, -step):
            moved = {
                id(leaf): (leaf.detach().double() + sign * direction).to(leaf.dtype)
                for leaf, direction in zip(leaves, directions, strict=True)
            }
            args, kwargs = tree_map(
                lambda value, moved=moved: moved.get(id(value), value), (call.args, call.kwargs)
            )
            assert call.module is not None
            with torch.no_grad():
                results = tree_leaves(call.module(*args, **kwargs))
            floats = [
                each
                for each in results
                if isinstance(each, torch.Tensor) and each.is_floating_point()
            ]
            sides.append(float(_weighted(floats, weights)))
        return (sides[0] - sides[1]) / (2 * step)

    coarse, fine = slope(2e-3), slope(5e-4)
    scale = max(abs(coarse), abs(fine), 1e-3)
    if abs(coarse - fine) > 0.05 * scale or abs(told - fine) <= 0.2 * scale:
        return ""
    return f"the gradient is {told:.4g} in a direction in which the result changes by {fine:.4g}"


def _first_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    return (f"{type(error).__name__}: {text}" if isinstance(error, Exception) else text)[:500]
