"""The layers, by the names under which libraries know them.

A layer is mapped by its name alone, so each says which modules it supports: the annotations are the
members that it needs there, and what the annotation of `self` requires is checked before it is
used. Its forward runs on instances of the class that it is swapped into. For arguments that it does
not support, it calls the forward that they had.
"""

from typing import Annotated

import torch
from torch import nn

from .conditions import (
    gates_with_silu,
    is_silu,
    multiplies_normed_by_weight,
    rotates_first_half_against_second,
)
from .fallback import are_plain, own_forward
from .functional import apply_rotary_pos_emb, can_rotate, rms_norm, silu_and_mul


class RMSNorm(nn.Module):
    """Replaces a norm that multiplies by its weight, not by one plus the weight.

    If input and weight differ in dtype, which one the result has depends on the module, so its own
    forward computes it.
    """

    has_backward = True
    can_torch_compile = True

    weight: torch.Tensor
    variance_epsilon: float

    def forward(
        self: Annotated["RMSNorm", multiplies_normed_by_weight], hidden_states: torch.Tensor
    ) -> torch.Tensor:
        """Normalize the last dimension."""
        weight = self.weight
        if are_plain(hidden_states, weight) and hidden_states.shape[-1:] == weight.shape:
            return rms_norm(hidden_states, weight, self.variance_epsilon)
        result: torch.Tensor = own_forward(self, RMSNorm)(self, hidden_states)
        return result


class SwiGLUMLP(nn.Module):
    """Replaces a gated MLP whose activation is SiLU.

    The projections are called as modules, with their hooks; the activation is not called.
    """

    has_backward = True
    can_torch_compile = True

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def forward(self: Annotated["SwiGLUMLP", gates_with_silu], x: torch.Tensor) -> torch.Tensor:
        """Project up with a gate, and down again."""
        act_fn = getattr(self, "act_fn", None)
        if act_fn is None or is_silu(act_fn):
            output: torch.Tensor = self.down_proj(silu_and_mul(self.gate_proj(x), self.up_proj(x)))
        else:  # it was changed since
            output = own_forward(self, SwiGLUMLP)(self, x)
        return output


class rotary_pos_emb(nn.Module):  # noqa: N801 # named like the function
    """Replaces a rotation of the first half of each head against the second.

    cos and sin are as wide as a head, or half as wide, like those of gpt-oss. If they differ from
    queries and keys in dtype, which one the result has depends on the function, so its own code
    computes it. A function that rotates pairs of elements, or the other way, is left alone.
    """

    has_backward = True
    can_torch_compile = True

    def forward(
        self: Annotated["rotary_pos_emb", rotates_first_half_against_second],
        q: torch.Tensor,
        k: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        unsqueeze_dim: int = 1,
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """Rotate queries and keys by their positions."""
        if are_plain(q, k, cos, sin) and can_rotate(q, k, cos, sin, unsqueeze_dim):
            return apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim)
        own = own_forward(self, rotary_pos_emb)
        result: tuple[torch.Tensor, torch.Tensor] = own(self, q, k, cos, sin, unsqueeze_dim)
        return result
