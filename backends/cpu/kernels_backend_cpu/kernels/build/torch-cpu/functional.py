"""The kernels, as functions of tensors.

On a CPU these operations are bound by memory, and each temporary of the input's size may cost as
much again, because its pages have to be mapped first. So they write into temporaries that they have
allocated themselves, but never into a tensor that is visible elsewhere. They run on Python 3.9.
"""

import torch
from torch.nn import functional


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Divide the last dimension by its root mean square, then multiply by the weight.

    Computes in float32 or wider and rounds once, at the end.

    Args:
        x: what to normalize, (..., size).
        weight: the factors, (size,).
        eps: added to the mean square.

    Returns:
        The normalized tensor, in the dtype of `x`.
    """
    if x.dtype in (torch.bfloat16, torch.float16):
        return rms_norm(x.float(), weight, eps).to(x.dtype)
    if torch.is_grad_enabled():
        # Not in place: autograd would copy what is overwritten.
        return functional.rms_norm(x, weight.shape, weight.to(x.dtype), eps)
    scale = x.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
    return (x * scale).mul_(weight)


def silu_and_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Multiply `up` by the SiLU of `gate`.

    Args:
        gate: what the activation is applied to.
        up: what is gated.

    Returns:
        The product, in the wider dtype of the two.
    """
    activated = functional.silu(gate)  # not in place: a hook may have kept the gate
    if torch.is_grad_enabled() or activated.dtype != up.dtype or activated.shape != up.shape:
        return activated * up
    return activated.mul_(up)


def apply_rotary_pos_emb(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    unsqueeze_dim: int = 1,
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Rotate queries and keys by their positions, the first half of a head against the second.

    Args:
        q: the queries, (batch, heads, length, head size).
        k: the keys, of the same head size.
        cos: (batch or 1, length, head size), or half as wide, for both halves of a head.
        sin: like `cos`.
        unsqueeze_dim: the dimension of the heads, which `cos` and `sin` lack.

    Returns:
        The rotated queries and keys, each in its own dtype.

    Raises:
        ValueError: the last dimensions differ.
    """
    if not _widths_fit(q, k, cos, sin):
        raise ValueError(
            "cos and sin must be as wide as the heads of queries and keys, or half as wide, but q "
            f"is {tuple(q.shape)}, k {tuple(k.shape)}, cos {tuple(cos.shape)} and sin "
            f"{tuple(sin.shape)}. If only a part of the head rotates, pass that part; if cos "
            "and sin are for pairs of elements, use another layer."
        )
    if cos.shape[-1] < q.shape[-1]:
        cos, first, second = torch.cat((cos, cos), dim=-1), sin, sin
    else:
        first, second = sin.chunk(2, dim=-1)
    cos = cos.unsqueeze(unsqueeze_dim)
    sin = torch.cat((-first, second), dim=-1).unsqueeze(unsqueeze_dim)
    return _rotate(q, cos, sin), _rotate(k, cos, sin)


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


def _rotate(x: torch.Tensor, cos: torch.Tensor, signed_sin: torch.Tensor) -> torch.Tensor:
    if x.dtype != cos.dtype:
        wide = torch.promote_types(x.dtype, cos.dtype)
        return _rotate(x.to(wide), cos.to(wide), signed_sin.to(wide)).to(x.dtype)
    swapped = x.roll(-(x.shape[-1] // 2), -1)
    return swapped.mul_(signed_sin).addcmul_(x, cos)
