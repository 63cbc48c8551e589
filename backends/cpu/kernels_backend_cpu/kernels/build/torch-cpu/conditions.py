"""Whether a module computes what a layer computes, found by calling both on a few numbers.

A layer is mapped by its name alone, and classes of one name may differ. Each condition gets a copy
of the module that has its original forward, and may change the copy.
"""
# as in __init__.py

from contextlib import suppress
from typing import Any

import torch
from torch import nn

from .functional import apply_rotary_pos_emb, rms_norm, silu_and_mul


def multiplies_normed_by_weight(norm: Any) -> bool:
    """Whether a norm divides by the root mean square and multiplies by its weight."""
    weight = getattr(norm, "weight", _numbers(8))  # a parametrized one is not on the copy
    if weight is None or weight.dim() != 1:
        return False
    size = weight.numel() or 8  # none where it is partitioned
    eps = norm.variance_epsilon
    rows = _numbers(3, size) * torch.tensor([[eps**0.5], [1.0], [100.0]])
    for dtype in (torch.float32, torch.bfloat16):
        x, weight = rows.to(dtype), (_numbers(size) + 1.5).to(dtype)
        norm.weight = nn.Parameter(weight)
        if not _equal(norm(x), rms_norm(x, weight, eps)):
            return False
    return True


def is_silu(act_fn: object) -> bool:
    """Whether an activation is SiLU, by its name: libraries have classes of their own."""
    named = type(act_fn) if isinstance(act_fn, nn.Module) else act_fn
    return getattr(named, "__name__", "") in ("SiLU", "SiLUActivation", "silu")


def gates_with_silu(mlp: Any) -> bool:
    """Whether an MLP multiplies one projection by the SiLU of another and projects back."""
    mlp.gate_proj, mlp.up_proj, mlp.down_proj = _linear(4, 6), _linear(4, 6), _linear(6, 4)
    # Small and large numbers: some clamp.
    x = _numbers(1, 3, 4) * torch.tensor([[0.5], [3.0], [50.0]])
    expected = mlp.down_proj(silu_and_mul(mlp.gate_proj(x), mlp.up_proj(x)))
    return is_silu(getattr(mlp, "act_fn", nn.SiLU())) and _equal(mlp(x), expected)


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


def _rotates_equally(function: Any, given: "list[torch.Tensor]") -> bool:
    return all(map(_equal, function(*given), apply_rotary_pos_emb(*given)))


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
