"""The layers, by the names under which libraries know them.

A layer is mapped by its name alone, so each documents the modules that it supports. Their forward
runs on instances of the class that it is swapped into; the annotations are the members that it
needs there.
"""

import typing

import torch
from torch import nn

from .activations import GELU, GELU_TANH, SILU, gated, packed_gated
from .loss import cross_entropy
from .norms import add_rms_norm, layer_norm, rms_norm
from .rotary import apply_rotary_pos_emb

_SILU = {"SiLU": SILU, "SiLUActivation": SILU, "silu": SILU}
_GELU = {
    "GELUActivation": GELU,
    "GELUTanh": GELU_TANH,
    "PytorchGELUTanh": GELU_TANH,
    "NewGELUActivation": GELU_TANH,
}


class RMSNorm(nn.Module):
    """Replaces a norm that multiplies by its weight, not by one plus the weight.

    The result has the dtype of the input, even if the weight has a wider one.
    """

    has_backward = True
    can_torch_compile = True

    weight: torch.Tensor
    variance_epsilon: float

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Normalize the last dimension."""
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)


class FusedAddRMSNorm(nn.Module):
    """Replaces a layer that adds a residual, and returns the normalized sum and the sum."""

    has_backward = True
    can_torch_compile = True

    weight: torch.Tensor
    variance_epsilon: float

    def forward(
        self, hidden_states: torch.Tensor, residual: torch.Tensor
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """Add the residual, then normalize the last dimension."""
        return add_rms_norm(hidden_states, residual, self.weight, self.variance_epsilon)


class LayerNorm(nn.Module):
    """Replaces `torch.nn.LayerNorm`; uses torch's over more than the last dimension."""

    has_backward = True
    can_torch_compile = True

    weight: "torch.Tensor | None"
    bias: "torch.Tensor | None"
    eps: float
    normalized_shape: "tuple[int, ...]"

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 # torch's own name
        """Normalize the last dimension, then scale and shift it."""
        # Under autocast torch normalizes into float32.
        if len(self.normalized_shape) != 1 or torch.is_autocast_enabled(input.device.type):
            return nn.functional.layer_norm(
                input, self.normalized_shape, self.weight, self.bias, self.eps
            )
        return layer_norm(input, self.weight, self.bias, self.eps)


class SiluAndMul(nn.Module):
    """Replaces an activation whose gates are the first half of the features."""

    has_backward = True
    can_torch_compile = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply the second half of the features by the SiLU of the first."""
        return packed_gated(x, SILU)


class GeluAndMul(nn.Module):
    """Replaces an activation whose gates are the first half of the features, with exact GELU."""

    has_backward = True
    can_torch_compile = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply the second half of the features by the GELU of the first."""
        return packed_gated(x, GELU)


class GeluTanhAndMul(nn.Module):
    """Replaces an activation whose gates are the first half of the features, with tanh GELU."""

    has_backward = True
    can_torch_compile = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply the second half of the features by the approximate GELU of the first."""
        return packed_gated(x, GELU_TANH)


class SwiGLUMLP(nn.Module):
    """Replaces a gated MLP whose activation is SiLU; another `act_fn` raises a TypeError.

    The projections are called as modules, with their hooks; the activation is not called.
    """

    has_backward = True
    can_torch_compile = True

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Project up with a gate, and down again."""
        kind = _kind(self, _SILU, default=SILU)
        product = gated(self.gate_proj(x), self.up_proj(x), kind)
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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Project up with a gate, and down again."""
        kind = _kind(self, _GELU, default=None)
        product = gated(self.gate_proj(x), self.up_proj(x), kind)
        return typing.cast(torch.Tensor, self.down_proj(product))


class rotary_pos_emb(nn.Module):  # noqa: N801 # named like the function
    """Replaces a rotation of the first half of each head against the second.

    That is what functions of this name in transformers compute, with three exceptions. Those of
    gpt-oss and the OpenAI privacy filter, whose cos and sin are half as wide, raise a ValueError.
    NanoChat rotates in the other direction, which cannot be seen from the arguments: exclude it
    with a condition. The result has the dtype of the queries and keys, even if cos has a wider one.
    """

    has_backward = True
    can_torch_compile = True

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        unsqueeze_dim: int = 1,
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """Rotate queries and keys by their positions."""
        return apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim)


class CrossEntropyLoss(nn.Module):
    """Replaces `torch.nn.CrossEntropyLoss`; uses torch's for what the kernel does not support."""

    has_backward = True
    can_torch_compile = True

    weight: "torch.Tensor | None"
    ignore_index: int
    reduction: str
    label_smoothing: float

    def forward(
        self,
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


def _kind(mlp: nn.Module, kinds: "dict[str, str]", default: "str | None") -> str:
    # By name: kernels import only torch, and libraries have classes of their own.
    act_fn = getattr(mlp, "act_fn", None)
    if act_fn is None and default is not None:
        return default
    named = type(act_fn) if isinstance(act_fn, nn.Module) else act_fn
    name = getattr(named, "__name__", str(act_fn))
    if name == "GELU" and GELU in kinds.values():
        return GELU_TANH if getattr(act_fn, "approximate", "none") == "tanh" else GELU
    if name not in kinds:
        raise TypeError(
            f"{type(mlp).__name__} computes {' or '.join(sorted(set(kinds.values())))}, but this "
            f"module's act_fn is {name}: exclude such modules with a condition when making their "
            "class extensible, or map another layer."
        )
    return kinds[name]
