"""The layers, by the names under which libraries know them.

A layer is mapped by its name alone, so each says which modules it supports: the annotations are the
members that it needs there, and what the annotation of `self` requires is checked before it is
used. Its forward runs on instances of the class that it is swapped into. For arguments that it does
not support, it calls the forward that they had.
"""

import typing
from typing import Annotated

import torch
from torch import nn

from . import conditions
from .activations import GELU, GELU_TANH, SILU, gated, packed_gated
from .conditions import kind_of
from .fallback import are_plain, own_forward
from .loss import cross_entropy
from .norms import add_rms_norm, layer_norm, rms_norm
from .rotary import apply_rotary_pos_emb, can_rotate


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
        self: Annotated["RMSNorm", conditions.multiplies_normed_by_weight],
        hidden_states: torch.Tensor,
    ) -> torch.Tensor:
        """Normalize the last dimension."""
        weight = self.weight
        if are_plain(hidden_states, weight) and hidden_states.shape[-1:] == weight.shape:
            return rms_norm(hidden_states, weight, self.variance_epsilon)
        result: torch.Tensor = own_forward(self, RMSNorm)(self, hidden_states)
        return result


class FusedAddRMSNorm(nn.Module):
    """Replaces a layer that adds a residual, and returns the normalized sum and the sum."""

    has_backward = True
    can_torch_compile = True

    weight: torch.Tensor
    variance_epsilon: float

    def forward(
        self: Annotated["FusedAddRMSNorm", conditions.adds_before_it_norms],
        hidden_states: torch.Tensor,
        residual: torch.Tensor,
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """Add the residual, then normalize the last dimension."""
        weight = self.weight
        if (
            are_plain(hidden_states, residual, weight)
            and hidden_states.shape == residual.shape
            and hidden_states.shape[-1:] == weight.shape
        ):
            return add_rms_norm(hidden_states, residual, weight, self.variance_epsilon)
        own = own_forward(self, FusedAddRMSNorm)
        result: tuple[torch.Tensor, torch.Tensor] = own(self, hidden_states, residual)
        return result


class LayerNorm(nn.Module):
    """Replaces `torch.nn.LayerNorm` of the last dimension."""

    has_backward = True
    can_torch_compile = True

    weight: "torch.Tensor | None"
    bias: "torch.Tensor | None"
    eps: float
    normalized_shape: "tuple[int, ...]"

    def forward(
        self: Annotated["LayerNorm", conditions.normalizes_last_dimension],
        input: torch.Tensor,  # noqa: A002 # torch's own name
    ) -> torch.Tensor:
        """Normalize the last dimension, then scale and shift it."""
        weight, bias = self.weight, self.bias
        members = [member for member in (weight, bias) if member is not None]
        if are_plain(input, *members) and input.shape[-1:] == self.normalized_shape:
            return layer_norm(input, weight, bias, self.eps)
        result: torch.Tensor = own_forward(self, LayerNorm)(self, input)
        return result


class SiluAndMul(nn.Module):
    """Replaces an activation whose gates are the first half of the features."""

    has_backward = True
    can_torch_compile = True

    def forward(
        self: Annotated["SiluAndMul", conditions.multiplies_by_silu], x: torch.Tensor
    ) -> torch.Tensor:
        """Multiply the second half of the features by the SiLU of the first."""
        if are_plain(x) and x.shape[-1] % 2 == 0:
            return packed_gated(x, SILU)
        result: torch.Tensor = own_forward(self, SiluAndMul)(self, x)
        return result


class GeluAndMul(nn.Module):
    """Replaces an activation whose gates are the first half of the features, with exact GELU."""

    has_backward = True
    can_torch_compile = True

    def forward(
        self: Annotated["GeluAndMul", conditions.multiplies_by_gelu], x: torch.Tensor
    ) -> torch.Tensor:
        """Multiply the second half of the features by the GELU of the first."""
        if are_plain(x) and x.shape[-1] % 2 == 0:
            return packed_gated(x, GELU)
        result: torch.Tensor = own_forward(self, GeluAndMul)(self, x)
        return result


class GeluTanhAndMul(nn.Module):
    """Replaces an activation whose gates are the first half of the features, with tanh GELU."""

    has_backward = True
    can_torch_compile = True

    def forward(
        self: Annotated["GeluTanhAndMul", conditions.multiplies_by_gelu_tanh], x: torch.Tensor
    ) -> torch.Tensor:
        """Multiply the second half of the features by the approximate GELU of the first."""
        if are_plain(x) and x.shape[-1] % 2 == 0:
            return packed_gated(x, GELU_TANH)
        result: torch.Tensor = own_forward(self, GeluTanhAndMul)(self, x)
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

    def forward(
        self: Annotated["SwiGLUMLP", conditions.gates_with_silu], x: torch.Tensor
    ) -> torch.Tensor:
        """Project up with a gate, and down again."""
        act_fn = getattr(self, "act_fn", None)
        if act_fn is not None and kind_of(act_fn) != SILU:  # it was changed since
            return typing.cast(torch.Tensor, own_forward(self, SwiGLUMLP)(self, x))
        product = gated(self.gate_proj(x), self.up_proj(x), SILU)
        return typing.cast(torch.Tensor, self.down_proj(product))


class GEGLUMLP(nn.Module):
    """Replaces a gated MLP whose activation is GELU, exact or by tanh according to its `act_fn`.

    The projections are called as modules, with their hooks; the activation is not called.
    """

    has_backward = True
    can_torch_compile = True

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module
    act_fn: nn.Module

    def forward(
        self: Annotated["GEGLUMLP", conditions.gates_with_gelu], x: torch.Tensor
    ) -> torch.Tensor:
        """Project up with a gate, and down again."""
        kind = kind_of(self.act_fn)
        if kind not in (GELU, GELU_TANH):  # it was changed since
            return typing.cast(torch.Tensor, own_forward(self, GEGLUMLP)(self, x))
        product = gated(self.gate_proj(x), self.up_proj(x), kind)
        return typing.cast(torch.Tensor, self.down_proj(product))


class rotary_pos_emb(nn.Module):  # noqa: N801 # named like the function
    """Replaces a rotation of the first half of each head against the second.

    cos and sin are as wide as a head, or half as wide, like those of gpt-oss. If they differ from
    queries and keys in dtype, which one the result has depends on the function, so its own code
    computes it. A function that rotates pairs of elements, or the other way, is left alone.
    """

    has_backward = True
    can_torch_compile = True

    def forward(
        self: Annotated["rotary_pos_emb", conditions.rotates_first_half_against_second],
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


class CrossEntropyLoss(nn.Module):
    """Replaces `torch.nn.CrossEntropyLoss`; uses torch's for what the kernel does not support."""

    has_backward = True
    can_torch_compile = True

    weight: "torch.Tensor | None"
    ignore_index: int
    reduction: str
    label_smoothing: float

    def forward(
        self: Annotated["CrossEntropyLoss", conditions.is_cross_entropy],
        input: torch.Tensor,  # noqa: A002 # torch's own name
        target: torch.Tensor,
    ) -> torch.Tensor:
        """The loss of logits against classes."""
        return cross_entropy(
            input,
            target,
            self.weight,
            self.ignore_index,
            self.reduction,
            self.label_smoothing,
        )
