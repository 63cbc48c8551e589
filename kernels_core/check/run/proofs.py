"""Checks of what a kernel claims, with the calls that its tests make."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import torch
from torch.utils._pytree import tree_leaves, tree_map

from kernels_core.check.run.process import ReportEvent
from kernels_core.check.run.samples import Call, Samples
from kernels_core.environment import flag

# By how much arguments are changed for finite differences; half of it still works in float32.
_STEPS = (2e-3, 5e-4, 1.25e-4)


def prove(
    samples: Samples, layers: Mapping[str, Any], operators: Iterable[str], report: ReportEvent
) -> None:
    """Test what operators and layers claim, with the recorded calls.

    Reports `opcheck`, `compile` and `gradient` events for failures, and `unproved` for what has no
    recorded call.
    """
    for layer in layers.values():
        for call in samples.of(layer):
            # Without an active dispatch mode, kernels may bypass their operators, and the backward
            # pass has operators of its own.
            with contextlib.suppress(Exception), samples.watching():
                _run(call, grad=False)
                _backward(call)
    traced = not _is_interpreted()
    if not traced:
        why = "Triton's interpreter, which TRITON_INTERPRET switches on, cannot be traced"
        report("unproved", what="opcheck and torch.compile", why=why)
    for name, layer in layers.items():
        _prove_layer(samples, name, layer, traced, report)
    if traced:
        _prove_operators(samples, operators, report)


def _prove_operators(samples: Samples, operators: Iterable[str], report: ReportEvent) -> None:
    tried = set()
    for operator in samples.overloads():
        tried.add(operator.name().partition(".")[0])
        for call in samples.of(operator):
            report("begin", kind="opcheck", what=operator.name())
            problem = _opcheck(operator, call)
            if problem:
                report("opcheck", name=operator.name(), text=problem)
                break
    missing = sorted(set(operators) - tried)
    if missing:
        report("unproved", what=f"opcheck of {', '.join(missing)}", why="no test calls it")


def _prove_layer(
    samples: Samples, name: str, layer: Any, traced: bool, report: ReportEvent
) -> None:
    backward = getattr(layer, "has_backward", True)
    compiles = getattr(layer, "can_torch_compile", False) and traced
    calls = samples.of(layer)
    if not calls and (backward or compiles):
        report("unproved", what=f"layer {name}", why="no test calls it")
    proofs: list[tuple[str, Callable[[Call], str]]] = []
    if compiles:
        proofs.append(("compile", functools.partial(_compile_problem, grad=backward)))
    if backward:
        proofs.append(("gradient", _gradient_problem))
    for kind, proof in proofs:
        for call in calls:
            report("begin", kind=kind, what=name)
            try:
                problem = proof(call)
            except Exception as error:
                problem = _first_line(error)
            if problem:
                report(kind, name=name, text=problem)
                break


def _run(call: Call, *, grad: bool) -> Any:
    call = call.fresh()
    assert call.module is not None
    with torch.set_grad_enabled(grad):
        return call.module(*call.args, **call.kwargs)


def _is_interpreted() -> bool:
    return "triton" in sys.modules and flag("TRITON_INTERPRET")


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
    # Inductor would need a C++ compiler on this machine. This backend shows whether its input can
    # be traced, and gives the same results.
    compiled = torch.compile(fresh.module, fullgraph=True, backend="aot_eager")
    with torch.set_grad_enabled(grad):
        result = compiled(*fresh.args, **fresh.kwargs)
    try:
        torch.testing.assert_close(again, expected, equal_nan=True)
    except AssertionError:
        return ""  # random results cannot be compared
    try:
        torch.testing.assert_close(result, expected, equal_nan=True)
    except AssertionError as error:
        return f"the compiled layer gives another result: {_first_line(error)}"
    return ""


def _gradient_problem(call: Call) -> str:
    done = _backward(call)
    if done is None:
        return ""
    if not done.gradients:
        return "the result has no gradient"
    if all(each is None for each in done.gradients):
        return "no argument has a gradient"
    return _wrong_gradient(done)


@attrs.frozen
class _Backward:
    """A call with gradients.

    Attributes:
        call: the call.
        leaves: its arguments that may have gradients.
        weights: the factor of each element of the results in the sum that is differentiated.
        gradients: of that sum, for each of the leaves, then for each parameter of the module;
            empty when it has none.
    """

    call: Call
    leaves: list[Any]
    weights: list[Any]
    gradients: tuple[Any, ...]


def _backward(call: Call) -> _Backward | None:
    """Call a layer and compute gradients; None when nothing could have a gradient."""
    call = call.fresh()
    assert call.module is not None
    leaves = _floats((call.args, call.kwargs))
    parameters: list[Any] = [each for each in call.module.parameters() if each.is_floating_point()]
    for leaf in (*leaves, *parameters):
        leaf.requires_grad_(True)
    with torch.enable_grad():
        # Not the leaves themselves: some kernels write into their arguments.
        args, kwargs = tree_map(
            lambda value: value.clone() if isinstance(value, torch.Tensor) else value,
            (call.args, call.kwargs),
        )
        results = _floats(call.module(*args, **kwargs))
        if not results or not (leaves or parameters):
            return None
        # With another seed than the direction that the arguments move in: if both were the same,
        # a gradient with the transpose of the right matrix would look right.
        weights = [_direction(each, seed=1) for each in results]
        gradients: tuple[Any, ...] = ()
        if any(each.requires_grad for each in results):
            total = _weighted(results, weights)
            gradients = torch.autograd.grad(total, leaves + parameters, allow_unused=True)
    return _Backward(call, leaves, weights, gradients)


def _floats(values: Any) -> list[Any]:
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
    return [tensor for tensor in tensors if tensor.is_floating_point()]


def _weighted(results: list[Any], weights: list[Any]) -> Any:
    pairs = zip(results, weights, strict=True)
    return sum((result.double() * weight).sum() for result, weight in pairs)


def _direction(tensor: Any, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(2 * tensor.numel() + seed)
    return torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)


def _wrong_gradient(done: _Backward) -> str:
    """Compare with a finite difference, where that is exact enough to tell."""
    if any(leaf.dtype not in (torch.float32, torch.float64) for leaf in done.leaves):
        return ""
    slope = sum(
        (gradient.double() * _direction(leaf)).sum().item()
        for gradient, leaf in zip(done.gradients, done.leaves, strict=False)
        if gradient is not None
    )
    # Where a step crosses a kink, such as that of ReLU, shorter ones may not.
    for step in _STEPS:
        coarse, fine = _slope(done, step), _slope(done, step / 2)
        scale = max(abs(coarse), abs(fine), 1e-3)
        if abs(coarse - fine) <= 0.05 * scale:
            break
    else:
        return ""
    if abs(slope - fine) <= 0.2 * scale:
        return ""
    return f"the gradient in a direction is {slope:.4g}, but the result changes by {fine:.4g}"


def _slope(done: _Backward, step: float) -> float:
    """How fast the sum of the results changes as the arguments move."""
    forth, back = (_moved(done, step), _moved(done, -step))
    return (forth - back) / (2 * step)


def _moved(done: _Backward, step: float) -> float:
    moved = {
        id(leaf): (leaf.detach().double() + step * _direction(leaf)).to(leaf.dtype)
        for leaf in done.leaves
    }
    call = done.call
    args, kwargs = tree_map(lambda value: moved.get(id(value), value), (call.args, call.kwargs))
    assert call.module is not None
    with torch.no_grad():
        results = _floats(call.module(*args, **kwargs))
    return float(_weighted(results, done.weights))


def _first_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    return (f"{type(error).__name__}: {text}" if isinstance(error, Exception) else text)[:500]
