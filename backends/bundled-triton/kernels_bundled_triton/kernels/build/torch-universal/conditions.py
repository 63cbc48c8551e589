"""Whether a module computes what a layer computes, found by calling it with a few numbers.

A layer is mapped by its name alone, and classes of one name may differ. Each condition gets a copy
of the module that has its original forward, and may change the copy. It computes on the CPU.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .activations import GELU, GELU_TANH, SILU

_KINDS = {
    "GELUActivation": GELU,
    "GELUTanh": GELU_TANH,
    "NewGELUActivation": GELU_TANH,
    "PytorchGELUTanh": GELU_TANH,
    "SiLU": SILU,
    "SiLUActivation": SILU,
    "gelu": GELU,
    "silu": SILU,
}


def kind_of(act_fn: object) -> str:
    """The kind of an activation, by its name: libraries have classes of their own; or ""."""
    named = type(act_fn) if isinstance(act_fn, nn.Module) else act_fn
    name = getattr(named, "__name__", "")
    if name == "GELU":
        return GELU_TANH if getattr(act_fn, "approximate", "none") == "tanh" else GELU
    return _KINDS.get(name, "")


def multiplies_normed_by_weight(norm: Any) -> bool:
    """Whether a norm divides by the root mean square and multiplies by its weight."""
    return all(_equal(norm(x), _rms_norm(norm, x)) for x in _rows(norm, norm.variance_epsilon))


def adds_before_it_norms(norm: Any) -> bool:
    """Whether a norm does so with the sum of its arguments, and returns that sum, too."""
    for x in _rows(norm, norm.variance_epsilon):
        normed, total = norm(x, 2 * x)
        if not (_equal(total, 3 * x) and _equal(normed, _rms_norm(norm, 3 * x))):
            return False
    return True


def normalizes_last_dimension(norm: Any) -> bool:
    """Whether a norm computes what `torch.nn.LayerNorm` computes of the last dimension."""
    if len(norm.normalized_shape) != 1:
        return False
    return all(
        _equal(
            norm(x),
            functional.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps),
        )
        for x in _rows(norm, norm.eps)
    )


def multiplies_by_silu(module: Any) -> bool:
    """Whether a module multiplies the second half of the features by the SiLU of the first."""
    return _multiplies_by(module, SILU)


def multiplies_by_gelu(module: Any) -> bool:
    """Whether a module multiplies the second half of the features by the GELU of the first."""
    return _multiplies_by(module, GELU)


def multiplies_by_gelu_tanh(module: Any) -> bool:
    """Whether a module does so with the GELU that is approximated by tanh."""
    return _multiplies_by(module, GELU_TANH)


def gates_with_silu(mlp: Any) -> bool:
    """Whether an MLP multiplies one projection by the SiLU of another and projects back."""
    return _gates_with(mlp, kind_of(getattr(mlp, "act_fn", nn.SiLU())), (SILU,))


def gates_with_gelu(mlp: Any) -> bool:
    """Whether an MLP multiplies one projection by the GELU of another and projects back."""
    return _gates_with(mlp, kind_of(mlp.act_fn), (GELU, GELU_TANH))


def rotates_first_half_against_second(function: Any) -> bool:
    """Whether a function rotates as the layer does, by each width of cos that it takes."""
    q, k, half = _numbers(1, 2, 3, 8), _numbers(1, 1, 3, 8), 3 * _numbers(1, 3, 4)
    outcomes = []
    for angles in (torch.cat((half, half), -1), half):
        for dtype in (torch.float32, torch.bfloat16):
            given = [tensor.to(dtype) for tensor in (q, k, angles.cos(), angles.sin())]
            with suppress(RuntimeError, ValueError):  # it takes the other width
                outcomes.append(_rotates_equally(function, given))
    return bool(outcomes) and all(outcomes)


def is_cross_entropy(loss: Any) -> bool:
    """Whether a loss computes what `torch.nn.CrossEntropyLoss` computes."""
    loss.weight = None
    x, target = _numbers(3, 5), torch.tensor([0, 4, 2])
    target[0] = loss.ignore_index if 0 <= loss.ignore_index < 5 else 0
    expected = functional.cross_entropy(
        x,
        target,
        ignore_index=loss.ignore_index,
        reduction=loss.reduction,
        label_smoothing=loss.label_smoothing,
    )
    return _equal(loss(x, target), expected)


def _rows(norm: Any, eps: float) -> "Iterator[torch.Tensor]":
    # Rows for a norm, which gets a weight and a bias on the CPU.
    given = {name: getattr(norm, name, None) for name in ("weight", "bias")}
    if "weight" not in norm._parameters:  # a parametrized one is not on the copy
        given["weight"] = torch.empty(8)
    weight = given["weight"]
    size = 8 if weight is None else weight.numel() or 8  # none where it is partitioned
    for dtype in (torch.float32, torch.bfloat16):
        for name, tensor in given.items():
            if tensor is not None:
                setattr(norm, name, nn.Parameter((_numbers(size) + 1.5).to(dtype)))
        scales = torch.tensor([[eps**0.5], [1.0], [100.0]])
        yield (_numbers(3, size) * scales).to(dtype)


def _rms_norm(norm: Any, x: torch.Tensor) -> torch.Tensor:
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.variance_epsilon)
    return (wide * scale * norm.weight.float()).to(x.dtype)


def _activated(x: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == SILU:
        return functional.silu(x)
    return functional.gelu(x, approximate="none" if kind == GELU else "tanh")


def _multiplies_by(module: Any, kind: str) -> bool:
    # Small and large numbers: some clamp.
    x = _numbers(3, 8) * torch.tensor([[0.5], [3.0], [50.0]])
    return all(
        _equal(module(given), _activated(given[:, :4], kind) * given[:, 4:])
        for given in (x, x.bfloat16())
    )


def _gates_with(mlp: Any, kind: str, kinds: "tuple[str, ...]") -> bool:
    if kind not in kinds:
        return False
    mlp.gate_proj, mlp.up_proj, mlp.down_proj = _linear(4, 6), _linear(4, 6), _linear(6, 4)
    x = _numbers(1, 3, 4) * torch.tensor([[0.5], [3.0], [50.0]])
    expected = mlp.down_proj(_activated(mlp.gate_proj(x), kind) * mlp.up_proj(x))
    return _equal(mlp(x), expected)


def _rotates_equally(function: Any, given: "list[torch.Tensor]") -> bool:
    *heads, cos, sin = given
    if cos.shape[-1] == 4:
        cos, sin = torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)
    expected = [
        x * cos.unsqueeze(1) + torch.cat((-x[..., 4:], x[..., :4]), -1) * sin.unsqueeze(1)
        for x in heads
    ]
    return all(map(_equal, function(*given), expected))


def _numbers(*shape: int) -> torch.Tensor:
    # Not random, which would change what the program draws next.
    count = torch.Size(shape).numel()
    return (torch.arange(count, dtype=torch.float32) * 1.7).sin().view(shape) + 0.2


def _linear(fan_in: int, fan_out: int) -> nn.Linear:
    made = nn.utils.skip_init(nn.Linear, fan_in, fan_out, bias=False, dtype=torch.float32)
    made.weight.copy_(_numbers(fan_out, fan_in))
    return made


def _equal(theirs: torch.Tensor, ours: torch.Tensor) -> bool:
    tolerance = 1e-4 if ours.dtype == torch.float32 else 3e-2
    return theirs.dtype == ours.dtype and torch.allclose(
        theirs, ours, rtol=tolerance, atol=tolerance
    )
