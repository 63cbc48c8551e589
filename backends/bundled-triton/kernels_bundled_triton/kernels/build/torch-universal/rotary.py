"""Rotary position embedding of queries and keys, the first half of a head against the second."""

from typing import Optional, Tuple

import torch
import triton
import triton.language as tl

from ._launch import launch, next_power_of_2
from ._math import wide
from ._operator import Operator

# Strides that are multiples of this are passed as multiples, for the compiler to use.
_UNIT = 8


@triton.jit
def _rotate(
    x,
    y,
    cos1,
    cos2,
    sin1,
    sin2,
    head_stride,
    UNIT: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    INVERSE: tl.constexpr,
):
    head = tl.arange(0, HEAD_BLOCK)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (head < HEADS) & (column < HALF)
    offsets = head.to(tl.int64) * head_stride * UNIT + column
    first = wide(tl.load(x + offsets, inside))
    second = wide(tl.load(x + offsets + HALF, inside))
    if INVERSE:  # the transposed rotation, for gradients
        rotated1 = first * cos1 + second * sin2
        rotated2 = second * cos2 - first * sin1
    else:
        rotated1 = first * cos1 - second * sin1
        rotated2 = second * cos2 + first * sin2
    tl.store(y + offsets, rotated1.to(y.dtype.element_ty), inside)
    tl.store(y + offsets + HALF, rotated2.to(y.dtype.element_ty), inside)


@triton.jit(
    do_not_specialize=[
        "length",
        "q_batch",
        "q_head",
        "q_token",
        "k_batch",
        "k_head",
        "k_token",
        "cos_batch",
        "cos_token",
        "sin_batch",
        "sin_token",
    ]
)
def _kernel(
    q,
    k,
    cos,
    sin,
    rotated_q,
    rotated_k,
    length,
    q_batch,
    q_head,
    q_token,
    k_batch,
    k_head,
    k_token,
    cos_batch,
    cos_token,
    sin_batch,
    sin_token,
    UNIT: tl.constexpr,
    Q_HEADS: tl.constexpr,
    Q_BLOCK: tl.constexpr,
    K_HEADS: tl.constexpr,
    K_BLOCK: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    INVERSE: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)  # one for each token
    batch, token = program // length, program % length
    column = tl.arange(0, BLOCK)[None, :]
    cos += (batch * cos_batch + token * cos_token) * UNIT + column
    sin += (batch * sin_batch + token * sin_token) * UNIT + column
    inside = column < HALF
    cos1, cos2 = wide(tl.load(cos, inside)), wide(tl.load(cos + HALF, inside))
    sin1, sin2 = wide(tl.load(sin, inside)), wide(tl.load(sin + HALF, inside))
    offset = (batch * q_batch + token * q_token) * UNIT
    q += offset
    rotated_q += offset
    _rotate(
        q,
        rotated_q,
        cos1,
        cos2,
        sin1,
        sin2,
        q_head,
        UNIT,
        Q_HEADS,
        Q_BLOCK,
        HALF,
        BLOCK,
        INVERSE,
    )
    offset = (batch * k_batch + token * k_token) * UNIT
    k += offset
    rotated_k += offset
    _rotate(
        k,
        rotated_k,
        cos1,
        cos2,
        sin1,
        sin2,
        k_head,
        UNIT,
        K_HEADS,
        K_BLOCK,
        HALF,
        BLOCK,
        INVERSE,
    )


def _warps(elements: int) -> int:
    # The number of warps for so many elements of each half.
    return min(max(elements // 256, 1), 8)


def _dense_like(x: torch.Tensor) -> "tuple[torch.Tensor, torch.Tensor]":
    # The tensor, and one for the result with the same layout. The elements of a head must be
    # contiguous.
    if x.stride(-1) != 1:
        x = x.contiguous()
    y = torch.empty_like(x)
    for size, stride, other in zip(x.shape, x.stride(), y.stride()):
        if size > 1 and stride != other:
            x = x.contiguous()
            return x, torch.empty_like(x)
    return x, y


def _rotary(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    unsqueeze_dim: int,
    inverse: bool,
) -> Tuple[torch.Tensor, torch.Tensor]:
    q, rotated_q = _dense_like(q)
    k, rotated_k = _dense_like(k)
    if cos.stride(-1) != 1:
        cos = cos.contiguous()
    if sin.stride(-1) != 1:
        sin = sin.contiguous()
    heads, tokens = (1, 2) if unsqueeze_dim == 1 else (2, 1)
    batch, length = q.shape[0], q.shape[tokens]
    q_heads, k_heads, size = q.shape[heads], k.shape[heads], q.shape[3]
    if not batch * length * size * max(q_heads, k_heads):
        return rotated_q, rotated_k
    q_strides, k_strides = q.stride(), k.stride()
    cos_strides, sin_strides = cos.stride(), sin.stride()
    strides = (
        q_strides[0],
        q_strides[heads],
        q_strides[tokens],
        k_strides[0],
        k_strides[heads],
        k_strides[tokens],
        0 if cos.shape[0] == 1 else cos_strides[0],
        cos_strides[1],
        0 if sin.shape[0] == 1 else sin_strides[0],
        sin_strides[1],
    )
    unit = _UNIT
    for stride in strides:
        if stride % _UNIT:
            unit = 1
            break
    half = size // 2
    block = next_power_of_2(half)
    q_block = next_power_of_2(q_heads)
    launch(
        _kernel,
        batch * length,
        (q, k, cos, sin, rotated_q, rotated_k),
        (length, *[stride // unit for stride in strides]),
        (unit, q_heads, q_block, k_heads, next_power_of_2(k_heads), half, block, inverse),
        _warps(q_block * block),
    )
    return rotated_q, rotated_k


def _keep(ctx, inputs, output) -> None:
    _, _, cos, sin, ctx.unsqueeze_dim, ctx.inverse = inputs
    ctx.save_for_backward(cos, sin)


def _differentiate(ctx, dq, dk):
    cos, sin = ctx.saved_tensors
    dq, dk = _ROTARY(dq, dk, cos, sin, ctx.unsqueeze_dim, not ctx.inverse)
    return dq, dk, None, None, None, None


_ROTARY = Operator(_rotary, _keep, _differentiate)


def apply_rotary_pos_emb(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    unsqueeze_dim: int = 1,
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Rotate queries and keys by their positions.

    Computes in float32 (float64 for float64) and rounds once, at the end.

    Args:
        q: the queries, (batch, heads, length, size), or (batch, length, heads, size) with
            `unsqueeze_dim=2`; float32, bfloat16, float16 or float64.
        k: the keys, of the same head size; their number of heads may differ.
        cos: (batch or 1, length, size), or half as wide, for both halves of a head.
        sin: like `cos`.
        unsqueeze_dim: the dimension of the heads, which `cos` and `sin` lack.

    Returns:
        The rotated queries and keys, each in its own dtype.

    Raises:
        ValueError: the last dimensions differ.
    """
    again: Optional[Tuple[torch.Tensor, torch.Tensor]] = _ROTARY.again(
        q, k, cos, sin, unsqueeze_dim, False
    )
    if again is not None:
        return again
    if not _widths_fit(q, k, cos, sin):
        raise ValueError(
            "cos and sin must be as wide as the heads of queries and keys, or half as wide, but q "
            f"is {tuple(q.shape)}, k {tuple(k.shape)}, cos {tuple(cos.shape)} and sin "
            f"{tuple(sin.shape)}. If only a part of the head rotates, pass that part; if cos "
            "and sin are for pairs of elements, use another layer."
        )
    if cos.shape[-1] < q.shape[-1]:
        cos, sin = torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)
    q_shape, k_shape, cos_shape, sin_shape = q.shape, k.shape, cos.shape, sin.shape
    tokens = 2 if unsqueeze_dim == 1 else 1
    served = (
        len(q_shape) == len(k_shape) == 4
        and len(cos_shape) == 3
        and sin_shape == cos_shape
        and unsqueeze_dim in (1, 2)
        and q_shape[3] % 2 == 0
        and q_shape[0] == k_shape[0]
        and q_shape[tokens] == k_shape[tokens] == cos_shape[1]
        and (cos_shape[0] == 1 or cos_shape[0] == q_shape[0])
        and not ((cos.requires_grad or sin.requires_grad) and torch.is_grad_enabled())
    )
    if not served:
        return _composed(q, k, cos, sin, unsqueeze_dim)
    rotated_q, rotated_k = _ROTARY.run(q, k, cos, sin, unsqueeze_dim, False)
    return rotated_q, rotated_k


def can_rotate(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int
) -> bool:
    """Whether tensors have the shapes of the arguments of `apply_rotary_pos_emb`."""
    of_q, of_k, of_angles = q.shape, k.shape, cos.shape
    if not len(of_q) == len(of_k) == len(of_angles) + 1 == 4 or unsqueeze_dim not in (1, 2):
        return False
    batch, length, width = of_angles
    tokens = 3 - unsqueeze_dim
    return (
        sin.shape == of_angles
        and of_q[tokens] == of_k[tokens] == length
        and (batch == 1 or of_q[0] == of_k[0] == batch)
        and of_q[3] == of_k[3]
        and width in (of_q[3], of_q[3] / 2)
    )


def _widths_fit(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> bool:
    size, width = q.shape[-1], cos.shape[-1]
    return k.shape[-1] == size and sin.shape[-1] == width and (width in (size, size / 2))


def _composed(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int
) -> "tuple[torch.Tensor, torch.Tensor]":
    # With torch's operators: other shapes that broadcast, gradients of cos and sin.
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)

    def rotate(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)

    return rotate(q), rotate(k)
