"""Compare the bundled layers with everything in transformers that they may replace.

Candidates are the classes and functions that transformers marks, and those that a program may mark:
norms, gated MLPs and rotations. They are read from the source, because most are copies of each
other; one of each kind is imported and called.
"""

from __future__ import annotations

import ast
import copy
import functools
import importlib
import importlib.util
import inspect
import json
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from kernels_core import (
    KernelizeFallback,
    Mode,
    kernelize,
    replace_kernel_forward_from_hub,
    report,
    unkernelize,
    use_kernel_forward_from_hub,
    use_kernelized_func,
)

MARKS = {
    "use_kernel_forward_from_hub",
    "use_kernel_func_from_hub",
    "use_kernel_func_from_hub_with_fallback",
}
PROJECTIONS = {"gate_proj", "up_proj", "down_proj"}
DTYPES = (torch.float32, torch.bfloat16)


@attrs.frozen
class Implementation:
    """Classes or functions of one layer name with equal source.

    Attributes:
        layer: the layer name.
        module: the module of transformers that defines the first of them.
        name: its name.
        marked: how many transformers marks.
        copies: how many there are.
    """

    layer: str
    module: str
    name: str
    marked: int
    copies: int

    def __str__(self) -> str:
        return f"{self.module.rpartition('.')[2].removeprefix('modeling_')}.{self.name}"


@functools.cache
def implementations() -> tuple[Implementation, ...]:
    """The distinct implementations in the installed transformers."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    found: dict[tuple[str, str], list[tuple[str, str, bool]]] = defaultdict(list)
    for path in sorted(root.rglob("*.py")):
        text = path.read_text()
        if path.name.startswith("modular_") or not any(
            word in text for word in (*MARKS, "RMSNorm", "gate_proj", "apply_rotary_pos_emb")
        ):
            continue
        module = ".".join(("transformers", *path.relative_to(root).with_suffix("").parts))
        tree = ast.parse(text)
        defined = {
            node.name: node
            for node in tree.body
            if isinstance(node, (ast.ClassDef, ast.FunctionDef))
        }
        for node in defined.values():
            marks = set(_marks(node))
            for layer in marks or _possible_layers(node):
                found[layer, _source(node, defined)].append((module, node.name, bool(marks)))
    return tuple(
        Implementation(
            layer,
            *max(copies, key=lambda one: one[2])[:2],
            sum(marked for *_, marked in copies),
            len(copies),
        )
        for (layer, _), copies in found.items()
    )


def _marks(node: ast.ClassDef | ast.FunctionDef) -> Iterator[str]:
    for call in node.decorator_list:
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
            name = call.args[0] if call.args else None
            if call.func.id in MARKS and isinstance(name, ast.Constant):
                yield str(name.value)


def _possible_layers(node: ast.ClassDef | ast.FunctionDef) -> tuple[str, ...]:
    if isinstance(node, ast.FunctionDef):
        rotates = [arg.arg for arg in node.args.args][:4] == ["q", "k", "cos", "sin"]
        return ("rotary_pos_emb",) if rotates else ()
    if node.name.endswith("RMSNorm"):
        return ("RMSNorm",)
    members = {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)}
    return ("SwiGLUMLP", "GEGLUMLP") if members >= PROJECTIONS else ()


def _source(node: ast.ClassDef | ast.FunctionDef, defined: Mapping[str, ast.AST]) -> str:
    """Its source and that of what it refers to in its module, without names and docstrings."""
    pending, seen, parts = [node.name], set(), []
    while pending:
        name = pending.pop()
        if name in seen or name not in defined:
            continue
        seen.add(name)
        one = copy.deepcopy(defined[name])
        for inner in ast.walk(one):
            if isinstance(inner, (ast.ClassDef, ast.FunctionDef)):
                inner.decorator_list = []
                if ast.get_docstring(inner) is not None:
                    inner.body = inner.body[1:]
            elif isinstance(inner, ast.Name):
                pending.append(inner.id)
        parts.append(ast.unparse(one).replace(node.name, "_"))
    return "\n".join(parts)


@attrs.define
class Outcome:
    """What became of one implementation: the kernel, or the reason; what differed."""

    implementation: Implementation
    kernel: str | None = None
    reason: str = ""
    failures: list[str] = attrs.field(factory=list)


# Arguments, the dtype of the parameters, and that of autocast or None.
Case = tuple[tuple[Any, ...], torch.dtype, torch.dtype | None]


def sweep(mapping: Mapping[str, Any], device: str, marked_only: bool = False) -> list[Outcome]:
    """Compare every implementation that a mapping has a layer for with its original."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            _compare(one, mapping, device)
            for one in implementations()
            if one.layer in mapping and (one.marked or not marked_only)
        ]


def _compare(one: Implementation, mapping: Mapping[str, Any], device: str) -> Outcome:
    outcome = Outcome(one)
    try:
        target = getattr(importlib.import_module(one.module), one.name)
    except Exception as error:  # it needs another package
        outcome.reason = f"not imported: {error}"
        return outcome
    torch.manual_seed(0)
    if isinstance(target, type):
        layers = [target] if _has_own(target, one.layer) else []
        layers = layers or [_marked(target, one.layer)]
        found = [_made(layers[0], activation) for activation in _activations(one.layer)]
        owners = [module.to(device) for module in found if module is not None]
        if not owners:
            outcome.reason = "not constructed"
        for owner in owners:
            _try(outcome, owner, owner, mapping, device)
        return outcome
    function = target if isinstance(target, nn.Module) else _function(target, one.layer)

    @use_kernelized_func(function)
    class Owner(nn.Module):
        pass

    _try(outcome, Owner(), function, mapping, device)
    return outcome


def _has_own(cls: type, layer: str) -> bool:
    return cls.__dict__.get("kernel_layer_name") == layer


def _marked(cls: type[nn.Module], layer: str) -> type[nn.Module]:
    made: type[nn.Module] = type(cls.__name__, (cls,), {"forward": cls.forward})
    replace_kernel_forward_from_hub(made, layer)
    return made


def _function(function: Any, layer: str) -> Any:
    # Another wrapper, with arguments of its own, would hide the parameters.
    return use_kernel_forward_from_hub(layer)(inspect.unwrap(function))


def _activations(layer: str) -> tuple[str, ...]:
    return ("silu", "gelu", "gelu_pytorch_tanh", "relu") if layer.endswith("MLP") else ("",)


class _Config(SimpleNamespace):
    """A configuration that has small values for what an MLP asks for."""

    def __getattr__(self, name: str) -> Any:
        if name.endswith("_act") or name in ("activation_function", "hidden_activation"):
            return self.activation
        if name.startswith("__"):
            raise AttributeError(name)
        if "dropout" in name:
            return 0.0
        if "bias" in name:
            return False
        if "multiplier" in name:
            return [2.0, 3.0] if name.endswith("s") else 2.0
        if "sparsity" in name or "pattern" in name:
            return [0.0] * 4
        return 12 if "inter" in name or "ff" in name else 8


def _made(cls: type[nn.Module], activation: str) -> nn.Module | None:
    values: dict[str, Any] = {"config": _Config(activation=activation)}
    parameters = inspect.signature(cls).parameters.values()
    for parameter in parameters:
        required = parameter.default is parameter.empty
        if parameter.name not in values and required:
            values[parameter.name] = (
                activation if "act" in parameter.name else 12 if "inter" in parameter.name else 8
            )
    given = {one.name: values[one.name] for one in parameters if one.name in values}
    module = None
    with suppress(Exception):  # it needs another configuration
        module = cls(**{k: v for k, v in given.items() if k not in ("args", "kwargs")})
        for tensor in module.parameters():
            nn.init.uniform_(tensor, 0.5, 1.5)
    return module


def _try(
    outcome: Outcome, owner: nn.Module, target: nn.Module, mapping: Mapping[str, Any], device: str
) -> None:
    layer = outcome.implementation.layer
    cases = _cases(layer, device)
    unkernelize(owner)
    before = [_evaluate(target, *case) for case in cases]
    if not any(before):
        outcome.reason = outcome.reason or "its original cannot be called like this"
        return
    exact = [_evaluate(target, *case, exact=True) for case in cases]
    kernelize(
        owner,
        mode=Mode.TRAINING,
        device=device,
        mapping=dict(mapping),
        use_fallback=KernelizeFallback.ALL,
    )
    row = next(row for row in report(owner).rows if row.layer_name == layer)
    if row.kernel is None:
        outcome.reason = row.reason or "no reason"
        return
    outcome.kernel = row.kernel
    after = [_evaluate(target, *case) for case in cases]
    unkernelize(owner)
    for case, old, new, reference in zip(cases, before, after, exact, strict=True):
        difference = _difference(old, new, reference, _roundoff(*case))
        if difference:
            settings = ", ".join(map(str, case[1:]))
            outcome.failures.append(f"{settings}: {difference}")


def _cases(layer: str, device: str) -> list[Case]:
    torch.manual_seed(0)
    found: list[Case] = []
    for of_module, of_input, autocast in product(DTYPES, DTYPES, (None, torch.bfloat16)):

        def made(*shape: int, dtype: torch.dtype = of_input) -> Tensor:
            return torch.randn(shape).to(device, dtype).requires_grad_()

        if layer != "rotary_pos_emb":
            shapes = [(2, 3, 8), (0, 3, 8)] if layer == "RMSNorm" else [(2, 3, 8)]
            found += [((made(*shape),), of_module, autocast) for shape in shapes]
            continue
        for batch, width in product((2, 0), (8, 4)):
            q, k = made(batch, 4, 3, 8), made(batch, 2, 3, 8)
            half = 6 * torch.rand(batch, 3, 4, device=device)
            angle = torch.cat((half, half), -1)[..., :width]
            angles = (angle.cos().to(of_module), angle.sin().to(of_module))
            found.append(((q, k, *angles), of_module, autocast))
            heads_last = (q.transpose(1, 2), k.transpose(1, 2), *angles, 2)
            found.append((heads_last, of_module, autocast))
    return found


def _evaluate(
    target: nn.Module,
    arguments: tuple[Any, ...],
    dtype: torch.dtype,
    autocast: torch.dtype | None,
    exact: bool = False,
) -> list[Tensor]:
    """Results and gradients; empty if the original raises."""
    dtype = torch.float64 if exact else dtype
    module = target if not list(target.parameters()) else copy.deepcopy(target).to(dtype)
    given = [
        one.detach().to(torch.float64 if exact else one.dtype).requires_grad_(one.requires_grad)
        if isinstance(one, Tensor)
        else one
        for one in arguments
    ]
    context: Any = nullcontext()
    if autocast is not None and not exact:
        context = torch.autocast(given[0].device.type, autocast)
    try:
        with context:
            results = module(*given)
    except Exception:
        return []
    results = [results] if isinstance(results, Tensor) else list(results)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(one.shape, generator=generator).to(one) for one in results]
    wanted = [one for one in given if isinstance(one, Tensor) and one.requires_grad]
    gradients = torch.autograd.grad(
        results, [*wanted, *module.parameters()], weights, allow_unused=True
    )
    with torch.no_grad(), context:
        unrecorded = module(*given)
    unrecorded = [unrecorded] if isinstance(unrecorded, Tensor) else list(unrecorded)
    return [*results, *unrecorded, *(one for one in gradients if one is not None)]


def _roundoff(
    arguments: tuple[Any, ...], dtype: torch.dtype, autocast: torch.dtype | None
) -> float:
    """The relative error of rounding to the narrowest dtype that takes part."""
    given = {one.dtype for one in arguments if isinstance(one, Tensor)} | {dtype, autocast}
    return max(torch.finfo(one).eps for one in given if one is not None) / 2


def _difference(old: list[Tensor], new: list[Tensor], exact: list[Tensor], roundoff: float) -> str:
    if not old:
        return ""  # the original raises, too
    if len(old) != len(new):
        return f"{len(new)} results instead of {len(old)}"
    for index, (theirs, ours) in enumerate(zip(old, new, strict=True)):
        if (theirs.dtype, theirs.shape) != (ours.dtype, ours.shape):
            return f"result {index} is {ours.dtype} {tuple(ours.shape)}, not {theirs.dtype}"
        # Both round a few numbers in other places, so that their errors differ by chance.
        error, own = _error(ours, exact[index]), _error(theirs, exact[index])
        if error > 2 * own + max(roundoff, 4 * torch.finfo(theirs.dtype).eps):
            return f"result {index} has an error of {error}, that of the original is {own}"
    return ""


def _error(result: Tensor, exact: Tensor) -> float:
    # Relative to the greatest of the exact numbers; rounding averages out over all of them.
    if not result.numel():
        return 0.0
    difference = (result.double() - exact).square().mean().sqrt()
    return (difference / exact.abs().max().clamp(min=1e-9)).item()


def counts(outcomes: list[Outcome]) -> dict[str, int]:
    """The numbers of marked names, and of distinct implementations by what became of them."""
    swept = {outcome.implementation.layer for outcome in outcomes}
    names: Counter[str] = Counter()
    for one in implementations():
        if one.marked:
            names["marked"] += one.marked
            names["distinct, marked"] += 1
            if one.layer not in swept:
                names["no kernel for the name, marked"] += 1
    for outcome in outcomes:
        which = "marked" if outcome.implementation.marked else "others"
        what = "equal" if outcome.kernel else "refused"
        if outcome.failures:
            what = "failed"
        elif outcome.reason.startswith(("not ", "its original cannot")):
            what = "not called"
        names[f"{what}, {which}"] += 1
    return dict(names)


def main() -> None:
    """Print what became of each: `python transformers_sweep.py cpu [marked]`, or `triton`."""
    if sys.argv[1] == "cpu":
        from kernels_backend_cpu.bundled import bundled_mapping

        mapping: Mapping[str, Any] = bundled_mapping()
    else:
        from kernels_bundled_triton import bundled_mapping as triton_mapping

        mapping = triton_mapping("cpu")
    outcomes = sweep(mapping, "cpu", marked_only=sys.argv[2:] == ["marked"])
    for outcome in outcomes:
        one = outcome.implementation
        print(one.layer, one, one.marked, one.copies, outcome.kernel, outcome.reason[-150:])
        for failure in outcome.failures[:3]:
            print("   ", failure)
    print(json.dumps(counts(outcomes), indent=1))


if __name__ == "__main__":
    main()
