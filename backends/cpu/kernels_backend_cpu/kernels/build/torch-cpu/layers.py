"""The layers, by the names under which libraries know them.

A layer is mapped by its name alone, so each documents the modules that it supports. Their forward
runs on instances of the class that it is swapped into; the annotations are the members that it
needs there.
"""

import torch
from torch import nn

from .functional import apply_rotary_pos_emb, rms_norm, silu_and_mul


class RMSNorm(nn.Module):
    """Replaces a norm that multiplies by its weight, not by one plus the weight.

    The result has the dtype of the input, even if the weight has a wider one. Of the norms with
    this name in transformers, gpt-oss and OLMo do the same; Llama's would return the wider dtype.
    """

    has_backward = True
    can_torch_compile = True

    weight: torch.Tensor
    variance_epsilon: float

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Normalize the last dimension."""
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)


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
        _require_silu(getattr(self, "act_fn", None))
        output: torch.Tensor = self.down_proj(silu_and_mul(self.gate_proj(x), self.up_proj(x)))
        return output


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


def _require_silu(act_fn: object) -> None:
    # By name: kernels import only torch, and libraries have SiLU classes of their own.
    named = type(act_fn) if isinstance(act_fn, nn.Module) else act_fn
    name = getattr(named, "__name__", str(act_fn))
    if act_fn is not None and name not in ("SiLU", "SiLUActivation", "silu"):
        raise TypeError(
            f"SwiGLUMLP computes SiLU, but this module's act_fn is {name}: leave such modules out "
            "by a condition when making their class extensible, or map another layer."
        )
