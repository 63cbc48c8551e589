"""When the forward that a module had computes, instead of that of a layer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_WIDE = (torch.float32, torch.float64)
_HALVES = (torch.bfloat16, torch.float16)


def are_plain(first: torch.Tensor, *others: torch.Tensor) -> bool:
    """Whether the tensors have one dtype, and a module returns this one.

    With several dtypes, or under autocast, which one it returns depends on its code.
    """
    dtype = first.dtype
    for other in others:
        if other.dtype != dtype:
            return False
    if dtype in _HALVES:
        return not torch.is_autocast_enabled(first.device.type)
    return dtype in _WIDE


def own_forward(module: nn.Module, layer: "type[nn.Module]") -> "Callable[..., Any]":
    """The forward that a module had before it ran that of a layer."""
    found: Callable[..., Any] = next(
        cls.__dict__["forward"]
        for cls in type(module).__mro__
        if cls.__dict__.get("forward") not in (None, layer.forward)
    )
    return found
