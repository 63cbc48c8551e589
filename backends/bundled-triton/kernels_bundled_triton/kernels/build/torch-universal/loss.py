"""Softmax cross-entropy."""

import typing
from typing import Optional, Tuple

import torch
import triton
import triton.language as tl
from torch.nn import functional

from ._launch import launch, next_power_of_2
from ._math import wide
from ._operator import Operator

_FEW_ROWS, _SOME_ROWS = 64, 512
# One program adds up the losses of so many rows at most; beyond, torch's operators are faster.
_REDUCED_ROWS = 8192

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit(do_not_specialize=["ignore_index", "smoothing"])
def _forward_kernel(
    x,
    target,
    loss,
    normalizer,
    ignore_index,
    smoothing,
    CLASSES: tl.constexpr,
    BLOCK: tl.constexpr,
    SMOOTHED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    dtype: tl.constexpr = loss.dtype.element_ty
    smoothing = tl.cast(smoothing, dtype)  # some callers pass floats in float64
    x += row * CLASSES
    highest = tl.full([], float("-inf"), dtype)
    total = tl.zeros([BLOCK], dtype)
    plain = tl.zeros([BLOCK], dtype)
    for start in range(0, CLASSES, BLOCK):
        column = start + tl.arange(0, BLOCK)
        value = wide(tl.load(x + column, column < CLASSES, other=float("-inf")))
        larger = tl.maximum(highest, tl.max(value, 0))
        shift = tl.where(larger == float("-inf"), 0.0, larger)
        total = total * tl.exp2((highest - shift) * LOG2_E) + tl.exp2((value - shift) * LOG2_E)
        highest = larger
        if SMOOTHED:  # otherwise, a logit of minus infinity needs no special case
            plain += tl.where(column < CLASSES, value, 0.0)
    log_sum = highest + tl.log(tl.sum(total, 0))
    label = tl.load(target + row)
    known = (label >= 0) & (label < CLASSES)
    chosen = wide(tl.load(x + label, known, other=0.0))
    result = log_sum - chosen * (1 - smoothing)
    if SMOOTHED:
        result -= tl.sum(plain, 0) * (smoothing / CLASSES)
    # A class that does not exist must not be taken for another one.
    result = tl.where(known, result, float("nan"))
    result = tl.where(label == ignore_index, 0.0, result)
    tl.store(loss + row, result.to(dtype))
    if normalizer is not None:
        tl.store(normalizer + row, log_sum.to(dtype))


@triton.jit(do_not_specialize=["ignore_index", "smoothing"])
def _backward_kernel(
    dloss,
    x,
    target,
    normalizer,
    dx,
    ignore_index,
    smoothing,
    CLASSES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    x += row * CLASSES
    dx += row * CLASSES
    label = tl.load(target + row)
    gradient = tl.load(dloss + row)
    log_sum = tl.load(normalizer + row)
    smoothing = tl.cast(smoothing, log_sum.dtype)
    for start in range(0, CLASSES, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < CLASSES
        value = wide(tl.load(x + column, inside, other=0.0))
        value = tl.exp2((value - log_sum) * LOG2_E)
        value -= tl.where(column == label, 1 - smoothing, 0.0) + smoothing / CLASSES
        value = tl.where(label == ignore_index, 0.0, value * gradient)
        tl.store(dx + column, value.to(dx.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["rows", "ignore_index"])
def _reduce_kernel(
    loss, target, result, rows, ignore_index, MEAN: tl.constexpr, BLOCK: tl.constexpr
):
    total = tl.zeros([BLOCK], loss.dtype.element_ty)
    count = tl.zeros([BLOCK], tl.int32)
    for start in range(0, rows, BLOCK):
        row = start + tl.arange(0, BLOCK)
        total += tl.load(loss + row, row < rows, other=0.0)
        label = tl.load(target + row, row < rows, other=ignore_index)
        count += tl.where(label == ignore_index, 0, 1)
    value = tl.sum(total, 0)
    if MEAN:
        value = value / tl.sum(count, 0)
    tl.store(result, value.to(result.dtype.element_ty))


def _shape(rows: int, classes: int) -> "tuple[int, int]":
    # With few rows there are few programs, so each reads more of its row at a time.
    most = 32768 if rows <= _FEW_ROWS else 8192 if rows <= _SOME_ROWS else 4096
    block = min(next_power_of_2(classes), most)
    return block, min(max(block // 1024, 4), 16)


def _losses(
    x: torch.Tensor,
    target: torch.Tensor,
    normalizer: Optional[torch.Tensor],
    ignore_index: int,
    smoothing: float,
) -> torch.Tensor:
    # The loss of each row; what its gradient needs is written to `normalizer`.
    rows, classes = x.shape
    loss = x.new_empty(rows, dtype=torch.promote_types(x.dtype, torch.float32))
    if rows:
        block, warps = _shape(rows, classes)
        tensors = (x, target, loss, normalizer)
        constants = (classes, block, smoothing != 0)
        launch(_forward_kernel, rows, tensors, (ignore_index, smoothing), constants, warps)
    return loss


def _cross_entropy(
    x: torch.Tensor, target: torch.Tensor, ignore_index: int, smoothing: float
) -> Tuple[torch.Tensor, torch.Tensor]:
    x, target = x.contiguous(), target.contiguous()
    normalizer = x.new_empty(x.shape[0], dtype=torch.promote_types(x.dtype, torch.float32))
    return _losses(x, target, normalizer, ignore_index, smoothing), normalizer


def _cross_entropy_backward(
    dloss: torch.Tensor,
    x: torch.Tensor,
    target: torch.Tensor,
    normalizer: torch.Tensor,
    ignore_index: int,
    smoothing: float,
) -> torch.Tensor:
    x, target, dloss = x.contiguous(), target.contiguous(), dloss.contiguous()
    rows, classes = x.shape
    dx = torch.empty_like(x)
    if rows:
        block, warps = _shape(rows, classes)
        tensors = (dloss, x, target, normalizer, dx)
        launch(_backward_kernel, rows, tensors, (ignore_index, smoothing), (classes, block), warps)
    return dx


_CROSS_ENTROPY_BACKWARD = Operator(_cross_entropy_backward)


def _keep(ctx, inputs, output) -> None:
    x, target, ctx.ignore_index, ctx.smoothing = inputs
    ctx.save_for_backward(x, target, output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx, dloss, _):
    dx = _CROSS_ENTROPY_BACKWARD(dloss, *ctx.saved_tensors, ctx.ignore_index, ctx.smoothing)
    return dx, None, None, None


_CROSS_ENTROPY = Operator(_cross_entropy, _keep, _differentiate)


def _reduced_cross_entropy(
    x: torch.Tensor, target: torch.Tensor, ignore_index: int, smoothing: float, mean: bool
) -> Tuple[torch.Tensor, torch.Tensor]:
    # Also returns the losses of the rows, so that the operator can be replayed.
    x, target = x.contiguous(), target.contiguous()
    loss = _losses(x, target, None, ignore_index, smoothing)
    result = x.new_empty(())
    rows = loss.shape[0]
    block = min(next_power_of_2(rows), 1024)
    launch(_reduce_kernel, 1, (loss, target, result), (rows, ignore_index), (mean, block), 4)
    return result, loss


_REDUCED_CROSS_ENTROPY = Operator(_reduced_cross_entropy)


def cross_entropy(
    x: torch.Tensor,
    target: torch.Tensor,
    weight: "torch.Tensor | None" = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Softmax cross-entropy between logits and classes, like `torch.nn.functional.cross_entropy`.

    Never makes a tensor of the size of the logits, except for their gradient. Class weights, class
    probabilities and more than two dimensions are computed by torch.

    Args:
        x: the logits, (rows, classes); float32, bfloat16, float16 or float64.
        target: the classes, (rows,), int64. The loss of one that does not exist is NaN.
        weight: a factor for each class, (classes,).
        ignore_index: rows with this target are ignored.
        reduction: "mean", "sum" or "none".
        label_smoothing: the part of the probability that is spread over all classes.

    Returns:
        The loss, a scalar, or (rows,) with "none", in the dtype of `x`.
    """
    mean = reduction == "mean"
    to_torch = weight is not None or torch.is_autocast_enabled(x.device.type)
    if reduction in ("mean", "sum") and not to_torch:
        again = _REDUCED_CROSS_ENTROPY.again(x, target, ignore_index, label_smoothing, mean)
        if again is not None:
            return typing.cast(torch.Tensor, again[0])
    if (
        to_torch
        or x.dim() != 2
        or target.dim() != 1
        or target.dtype != torch.int64
        or x.shape[0] != target.shape[0]
        or x.shape[1] == 0
        or reduction not in ("mean", "sum", "none")
    ):
        return functional.cross_entropy(
            x,
            target,
            weight,
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
        )
    records = torch.is_grad_enabled() and x.requires_grad
    if reduction != "none" and 0 < x.shape[0] <= _REDUCED_ROWS and not records:
        run = _REDUCED_CROSS_ENTROPY.run
        return typing.cast(torch.Tensor, run(x, target, ignore_index, label_smoothing, mean)[0])
    loss: torch.Tensor = _CROSS_ENTROPY(x, target, ignore_index, label_smoothing)[0]
    if reduction == "none":
        return loss.to(x.dtype)
    total = loss.sum()
    return (total / (target != ignore_index).sum() if mean else total).to(x.dtype)
