"""Normalizing the last dimension: RMSNorm, LayerNorm, and RMSNorm with a residual added before."""

from typing import Optional, Tuple

import torch
import triton
import triton.language as tl
from torch.nn import functional

from ._launch import cdiv, launch, next_power_of_2
from ._math import wide
from ._operator import Operator

# A row must fit into the registers of one program.
_MAX_SIZE = 65536
_ELEMENTS = 2048  # short rows share a program up to this
_FEW_ROWS = 4096
_BACKWARD_PROGRAMS = 512


@triton.jit
def _statistics(value, column, eps, SIZE: tl.constexpr, CENTERED: tl.constexpr):
    # The centred values, and the factor that normalizes them. Some callers pass floats in float64.
    eps = tl.cast(eps, value.dtype)
    if CENTERED:
        mean = tl.sum(value, 1)[:, None] / SIZE
        value = tl.where(column < SIZE, value - mean, 0.0)
    return value, tl.rsqrt(tl.sum(value * value, 1)[:, None] / SIZE + eps)


@triton.jit(do_not_specialize=["rows"])
def _forward_kernel(
    x,
    residual,
    weight,
    bias,
    y,
    total,
    rows,
    eps,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    CENTERED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (column < SIZE) & (row < rows) if ROWS > 1 else (column < SIZE)
    offsets = row * SIZE + column
    value = wide(tl.load(x + offsets, inside, other=0.0))
    if residual is not None:
        value += wide(tl.load(residual + offsets, inside, other=0.0))
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + offsets, rounded, inside)
        value = wide(rounded)
    value, scale = _statistics(value, column, eps, SIZE, CENTERED)
    value = value * scale
    if weight is not None:
        value *= wide(tl.load(weight + column, column < SIZE, other=0.0))
    if bias is not None:
        value += wide(tl.load(bias + column, column < SIZE, other=0.0))
    tl.store(y + offsets, value.to(y.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["rows"])
def _backward_kernel(
    dy,
    x,
    weight,
    dx,
    dweight,
    dbias,
    rows,
    eps,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    CENTERED: tl.constexpr,
):
    program = tl.program_id(0)
    column = tl.arange(0, BLOCK)[None, :]
    if weight is not None:
        factor = wide(tl.load(weight + column, column < SIZE, other=0.0))
        weight_sum = tl.zeros([BLOCK], dweight.dtype.element_ty)
    if dbias is not None:
        bias_sum = tl.zeros([BLOCK], dbias.dtype.element_ty)
    for start in range(program * ROWS, rows, tl.num_programs(0) * ROWS):
        row = start + tl.arange(0, ROWS)[:, None].to(tl.int64)
        inside = (column < SIZE) & (row < rows)
        offsets = row * SIZE + column
        gradient = wide(tl.load(dy + offsets, inside, other=0.0))
        value = wide(tl.load(x + offsets, inside, other=0.0))
        value, scale = _statistics(value, column, eps, SIZE, CENTERED)
        normed = value * scale
        if weight is not None:
            weight_sum += tl.sum(gradient * normed, 0)
        if dbias is not None:
            bias_sum += tl.sum(gradient, 0)
        if weight is not None:
            gradient *= factor
        result = gradient - normed * (tl.sum(gradient * normed, 1)[:, None] / SIZE)
        if CENTERED:
            result -= tl.sum(gradient, 1)[:, None] / SIZE
        tl.store(dx + offsets, (result * scale).to(dx.dtype.element_ty), inside)
    column = tl.arange(0, BLOCK)
    if weight is not None:
        tl.store(dweight + program * SIZE + column, weight_sum, column < SIZE)
    if dbias is not None:
        tl.store(dbias + program * SIZE + column, bias_sum, column < SIZE)


def _shape(rows: int, size: int) -> "tuple[int, int, int]":
    # Elements of a row, padded; rows of a program; warps of a program.
    block = next_power_of_2(size)
    per_program = max(1, _ELEMENTS // block)
    # Few rows are bound by latency, so each thread takes little; many are bound by bandwidth.
    per_warp = 256 if rows <= _FEW_ROWS else 512
    return block, per_program, min(max(block * per_program // per_warp, 4), 32)


def _normalize(x, residual, weight, bias, eps, centered):
    # The normalized tensor, and what was normalized.
    x = x.contiguous()
    total = x
    if residual is not None:
        residual = residual.contiguous()
        total = torch.empty_like(x)
    y = torch.empty_like(x)
    size = x.shape[-1]
    elements = x.numel()
    if elements:
        rows = elements // size
        block, per_program, warps = _shape(rows, size)
        launch(
            _forward_kernel,
            cdiv(rows, per_program),
            (
                x,
                residual,
                None if weight is None else weight.contiguous(),
                None if bias is None else bias.contiguous(),
                y,
                None if residual is None else total,
            ),
            (rows, eps),
            (size, block, per_program, centered),
            warps,
        )
    return y, total


def _normalize_backward(dy, x, weight, eps, centered, has_bias):
    # Gradients of x, of the weight and of the bias; None for missing ones.
    x = x.contiguous()
    dy = dy.contiguous()
    size = x.shape[-1]
    rows = x.numel() // max(size, 1)
    dx = torch.empty_like(x)
    block, per_program, warps = _shape(rows, size)
    programs = min(cdiv(rows, per_program), _BACKWARD_PROGRAMS)
    wide_dtype = torch.promote_types(x.dtype, torch.float32)
    # Each program adds up its rows; the second step adds up those sums.
    dweight = None if weight is None else x.new_empty((programs, size), dtype=wide_dtype)
    dbias = x.new_empty((programs, size), dtype=wide_dtype) if has_bias else None
    if x.numel():
        weight = None if weight is None else weight.contiguous()
        launch(
            _backward_kernel,
            programs,
            (dy, x, weight, dx, dweight, dbias),
            (rows, eps),
            (size, block, per_program, centered),
            warps,
        )
    return dx, *(None if partial is None else partial.sum(0) for partial in (dweight, dbias))


def _rms_norm_backward(
    dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, eps: float
) -> Tuple[torch.Tensor, torch.Tensor]:
    dx, dweight, _ = _normalize_backward(dy, x, weight, eps, False, False)
    return dx, dweight.to(weight.dtype)


def _layer_norm_backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    weight: Optional[torch.Tensor],
    eps: float,
    has_bias: bool,
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    # An operator can only return tensors: an empty one means that there is none.
    dx, dweight, dbias = _normalize_backward(dy, x, weight, eps, True, has_bias)
    dtype = x.dtype if weight is None else weight.dtype
    absent = x.new_empty(0)
    return (
        dx,
        absent if dweight is None else dweight.to(dtype),
        absent.clone() if dbias is None else dbias.to(dtype),
    )


_RMS_NORM_BACKWARD = Operator(_rms_norm_backward)
_LAYER_NORM_BACKWARD = Operator(_layer_norm_backward)


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return _normalize(x, None, weight, None, eps, False)[0]


def _keep_for_rms_norm(ctx, inputs, output) -> None:
    x, weight, ctx.eps = inputs
    ctx.save_for_backward(x, weight)


def _differentiate_rms_norm(ctx, dy):
    x, weight = ctx.saved_tensors
    return (*_RMS_NORM_BACKWARD(dy, x, weight, ctx.eps), None)


_RMS_NORM = Operator(_rms_norm, _keep_for_rms_norm, _differentiate_rms_norm)


def _add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> Tuple[torch.Tensor, torch.Tensor]:
    return _normalize(x, residual, weight, None, eps, False)


def _keep_for_add_rms_norm(ctx, inputs, output) -> None:
    _, _, weight, ctx.eps = inputs
    ctx.save_for_backward(output[1], weight)


def _differentiate_add_rms_norm(ctx, dy, dtotal):
    total, weight = ctx.saved_tensors
    dx, dweight = _RMS_NORM_BACKWARD(dy, total, weight, ctx.eps)
    dx = dx + dtotal
    return dx, dx, dweight, None


_ADD_RMS_NORM = Operator(_add_rms_norm, _keep_for_add_rms_norm, _differentiate_add_rms_norm)


def _layer_norm(
    x: torch.Tensor,
    weight: Optional[torch.Tensor],
    bias: Optional[torch.Tensor],
    eps: float,
) -> torch.Tensor:
    return _normalize(x, None, weight, bias, eps, True)[0]


def _keep_for_layer_norm(ctx, inputs, output) -> None:
    x, weight, bias, ctx.eps = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight)


def _differentiate_layer_norm(ctx, dy):
    x, weight = ctx.saved_tensors
    dx, dweight, dbias = _LAYER_NORM_BACKWARD(dy, x, weight, ctx.eps, ctx.has_bias)
    return dx, None if weight is None else dweight, dbias if ctx.has_bias else None, None


_LAYER_NORM = Operator(_layer_norm, _keep_for_layer_norm, _differentiate_layer_norm)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Divide the last dimension by its root mean square, then multiply by the weight.

    Computes in float32 (float64 for float64) and rounds once, at the end.

    Args:
        x: what to normalize, (..., size); float32, bfloat16, float16 or float64.
        weight: the factors, (size,).
        eps: added to the mean square.

    Returns:
        The normalized tensor, in the dtype of `x`.

    Raises:
        ValueError: the weight has another size.
    """
    again: Optional[torch.Tensor] = _RMS_NORM.again(x, weight, eps)
    if again is not None:
        return again
    if _size(x, weight) > _MAX_SIZE:
        return functional.rms_norm(x, weight.shape, weight.to(x.dtype), eps)
    result: torch.Tensor = _RMS_NORM.run(x, weight, eps)
    return result


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Add a residual, then normalize the sum like `rms_norm`, in one pass.

    Args:
        x: (..., size).
        residual: what to add to it, of the same shape and dtype.
        weight: the factors, (size,).
        eps: added to the mean square.

    Returns:
        The normalized sum and the sum, both in the dtype of `x`.

    Raises:
        ValueError: the weight has another size, or `x` and `residual` differ in shape or dtype.
    """
    again: Optional[Tuple[torch.Tensor, torch.Tensor]] = _ADD_RMS_NORM.again(
        x, residual, weight, eps
    )
    if again is not None:
        return again
    size = _size(x, weight)
    if residual.shape != x.shape or residual.dtype != x.dtype:
        raise ValueError(
            f"The residual must have the shape and dtype of x, {tuple(x.shape)} {x.dtype}, but has "
            f"{tuple(residual.shape)} {residual.dtype}."
        )
    if size > _MAX_SIZE:
        total = x + residual
        return rms_norm(total, weight, eps), total
    y, total = _ADD_RMS_NORM.run(x, residual, weight, eps)
    return y, total


def layer_norm(
    x: torch.Tensor,
    weight: "torch.Tensor | None",
    bias: "torch.Tensor | None",
    eps: float,
) -> torch.Tensor:
    """Normalize the last dimension to mean 0 and variance 1, then scale and shift it.

    Computes in float32 (float64 for float64) and rounds once, at the end.

    Args:
        x: what to normalize, (..., size).
        weight: the factors, (size,), or None.
        bias: what to add, (size,), or None.
        eps: added to the variance.

    Returns:
        The normalized tensor, in the dtype of `x`.

    Raises:
        ValueError: the weight or the bias has another size.
    """
    again: Optional[torch.Tensor] = _LAYER_NORM.again(x, weight, bias, eps)
    if again is not None:
        return again
    for tensor in (weight, bias):
        if tensor is not None:
            _size(x, tensor)
    if x.shape[-1] > _MAX_SIZE or (weight is None and bias is not None):
        return functional.layer_norm(x, x.shape[-1:], weight, bias, eps)
    result: torch.Tensor = _LAYER_NORM.run(x, weight, bias, eps)
    return result


def _size(x: torch.Tensor, weight: torch.Tensor) -> int:
    # The size of a row, which must be that of the weight.
    size = x.shape[-1]
    if weight.shape != (size,):
        raise ValueError(
            f"The weight must be as large as the last dimension of x, ({size},), but is "
            f"{tuple(weight.shape)}."
        )
    return size
