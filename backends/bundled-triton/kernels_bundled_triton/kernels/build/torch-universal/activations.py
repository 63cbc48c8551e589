"""Gated activations: one half of the features goes through an activation and scales the other."""

from typing import Optional, Tuple

import torch
import triton
import triton.language as tl
from torch.nn import functional

from ._launch import cdiv, launch
from ._math import exp, sigmoid, wide
from ._operator import Operator

SILU = "silu"
GELU = "gelu"
GELU_TANH = "gelu_tanh"

_BLOCK = 1024
_WARPS = 4
# Sizes and strides that are multiples of this are passed as multiples, for the compiler to use.
_UNIT = 16


@triton.jit
def _activate(x, KIND: tl.constexpr):
    # The activation of x and its derivative.
    if KIND == "silu":
        part, rest = sigmoid(x)
        value = x * part
        slope = part * (1 + x * rest)
    elif KIND == "gelu":
        part = 0.5 * (1 + tl.erf(x * 0.7071067811865476))
        value = x * part
        slope = part + x * 0.3989422804014327 * exp(-0.5 * x * x)
    else:
        # 0.5 (1 + tanh u) is the sigmoid of 2 u.
        part, rest = sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
        value = x * part
        inner = 1.5957691216057308 * (1 + 0.134145 * x * x)
        slope = part + x * part * rest * inner
    return value, slope


@triton.jit
def _place(columns, blocks, UNIT: tl.constexpr, BLOCK: tl.constexpr):
    # Row and columns of the program's part of the tensors, and which of them exist.
    program = tl.program_id(0).to(tl.int64)
    column = program % blocks * BLOCK + tl.arange(0, BLOCK)
    return program // blocks, column, column // UNIT < columns


@triton.jit(do_not_specialize=["columns", "blocks", "stride", "offset"])
def _forward_kernel(
    gate,
    up,
    y,
    columns,
    blocks,
    stride,
    offset,
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
    KIND: tl.constexpr,
):
    if up is None:  # packed
        up = gate
    row, column, inside = _place(columns, blocks, UNIT, BLOCK)
    source = row * stride * UNIT + column
    value, _ = _activate(wide(tl.load(gate + source, inside)), KIND)
    value *= wide(tl.load(up + source + offset * UNIT, inside))
    tl.store(y + row * columns * UNIT + column, value.to(y.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["columns", "blocks", "stride", "offset"])
def _backward_kernel(
    dy,
    gate,
    up,
    dgate,
    dup,
    columns,
    blocks,
    stride,
    offset,
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
    KIND: tl.constexpr,
):
    if up is None:  # packed
        up = gate
    if dup is None:
        dup = dgate
    row, column, inside = _place(columns, blocks, UNIT, BLOCK)
    source = row * stride * UNIT + column
    gradient = wide(tl.load(dy + row * columns * UNIT + column, inside))
    value, slope = _activate(wide(tl.load(gate + source, inside)), KIND)
    factor = wide(tl.load(up + source + offset * UNIT, inside))
    tl.store(dgate + source, (gradient * factor * slope).to(dgate.dtype.element_ty), inside)
    tl.store(dup + source + offset * UNIT, (gradient * value).to(dup.dtype.element_ty), inside)


def _apply(kernel, tensors, rows: int, columns: int, packed: bool, kind: str) -> None:
    # Packed gates and values are side by side in one row.
    if not rows * columns:
        return
    stride, offset = (2 * columns, columns) if packed else (columns, 0)
    unit = 1 if columns % _UNIT else _UNIT
    blocks = cdiv(columns, _BLOCK)
    scalars = (columns // unit, blocks, stride // unit, offset // unit)
    launch(kernel, rows * blocks, tensors, scalars, (unit, _BLOCK, kind), _WARPS)


def _gated(gate: torch.Tensor, up: torch.Tensor, kind: str) -> torch.Tensor:
    gate, up = gate.contiguous(), up.contiguous()
    y = torch.empty_like(gate)
    _apply(_forward_kernel, (gate, up, y), 1, gate.numel(), False, kind)
    return y


def _packed_gated(x: torch.Tensor, kind: str) -> torch.Tensor:
    x = x.contiguous()
    half = x.shape[-1] // 2
    y = x.new_empty((*x.shape[:-1], half))
    _apply(_forward_kernel, (x, None, y), x.numel() // max(2 * half, 1), half, True, kind)
    return y


def _gated_backward(
    dy: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, kind: str
) -> Tuple[torch.Tensor, torch.Tensor]:
    dy, gate, up = dy.contiguous(), gate.contiguous(), up.contiguous()
    dgate, dup = torch.empty_like(gate), torch.empty_like(up)
    _apply(_backward_kernel, (dy, gate, up, dgate, dup), 1, gate.numel(), False, kind)
    return dgate, dup


def _packed_gated_backward(dy: torch.Tensor, x: torch.Tensor, kind: str) -> torch.Tensor:
    dy, x = dy.contiguous(), x.contiguous()
    half = x.shape[-1] // 2
    dx = torch.empty_like(x)
    rows = x.numel() // max(2 * half, 1)
    _apply(_backward_kernel, (dy, x, None, dx, None), rows, half, True, kind)
    return dx


_GATED_BACKWARD = Operator(_gated_backward)
_PACKED_GATED_BACKWARD = Operator(_packed_gated_backward)


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.kind = inputs
    ctx.save_for_backward(*tensors)


def _differentiate_gated(ctx, dy):
    return (*_GATED_BACKWARD(dy, *ctx.saved_tensors, ctx.kind), None)


def _differentiate_packed_gated(ctx, dy):
    return _PACKED_GATED_BACKWARD(dy, *ctx.saved_tensors, ctx.kind), None


_GATED = Operator(_gated, _keep, _differentiate_gated)
_PACKED_GATED = Operator(_packed_gated, _keep, _differentiate_packed_gated)


def gated(gate: torch.Tensor, up: torch.Tensor, kind: str) -> torch.Tensor:
    """Multiply `up` by the activation of `gate`.

    Computes in float32 (float64 for float64) and rounds once, at the end.

    Args:
        gate: what the activation is applied to; float32, bfloat16, float16 or float64.
        up: the values, of the same shape and dtype; otherwise torch's own operators are used.
        kind: "silu", "gelu" (exact), or "gelu_tanh".

    Returns:
        The product.

    Raises:
        ValueError: an unknown kind.
    """
    again: Optional[torch.Tensor] = _GATED.again(gate, up, kind)
    if again is not None:
        return again
    _check_kind(kind)
    if gate.shape != up.shape or gate.dtype != up.dtype:
        if kind == SILU:
            return functional.silu(gate) * up
        return functional.gelu(gate, approximate="none" if kind == GELU else "tanh") * up
    result: torch.Tensor = _GATED.run(gate, up, kind)
    return result


def packed_gated(x: torch.Tensor, kind: str) -> torch.Tensor:
    """Multiply the second half of the features by the activation of the first.

    Args:
        x: gates and values, (..., 2 * size); float32, bfloat16, float16 or float64.
        kind: "silu", "gelu" (exact), or "gelu_tanh".

    Returns:
        The products, (..., size).

    Raises:
        ValueError: an unknown kind, or an odd last dimension.
    """
    again: Optional[torch.Tensor] = _PACKED_GATED.again(x, kind)
    if again is not None:
        return again
    _check_kind(kind)
    if x.shape[-1] % 2:
        raise ValueError(f"The last dimension must be even, but x is {tuple(x.shape)}.")
    result: torch.Tensor = _PACKED_GATED.run(x, kind)
    return result


def _check_kind(kind: str) -> None:
    if kind not in (SILU, GELU, GELU_TANH):
        raise ValueError(f"Unknown activation {kind!r}: use {SILU!r}, {GELU!r} or {GELU_TANH!r}.")
