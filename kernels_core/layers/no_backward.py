"""Kernels without a backward fail when gradients are computed through them.

Without this, autograd would see an output that depends on nothing: the weights below such a kernel
would silently keep their values while the rest of the model trains.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils import _pytree

from kernels_core.errors import NoBackwardError


def guarded(forward: Callable[..., Any], layer: str) -> Callable[..., Any]:
    """The forward of a kernel without a backward; its outputs raise in a backward pass.

    It costs something only where gradients are recorded; under `torch.no_grad` or
    `torch.inference_mode` the kernel's forward runs as it is.
    """

    @functools.wraps(forward)
    def guarded_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        if not torch.is_grad_enabled():
            return output
        recorded = next(_recorded(self, args, kwargs), None)
        if recorded is None:
            return output
        if torch.compiler.is_compiling():
            if self.training:
                raise _error(layer)
            return output
        return _with_failing_backward(output, recorded, layer)

    return guarded_forward


def _error(layer: str) -> NoBackwardError:
    return NoBackwardError(
        f"Gradients cannot be computed through kernel layer {layer!r}, which has no backward. For "
        f"training, call kernelize(model, mode=Mode.TRAINING) first; for inference, use "
        f"torch.no_grad().",
        layer=layer,
    )


def _recorded(module: Any, args: Any, kwargs: Any) -> Iterator[torch.Tensor]:
    """The tensors that a call depends on and that gradients are recorded for."""
    for leaf in _pytree.tree_leaves((args, kwargs)):
        if isinstance(leaf, torch.Tensor) and leaf.requires_grad:
            yield leaf
    for parameter in module.parameters():
        if parameter.requires_grad:
            yield parameter


def _with_failing_backward(output: Any, recorded: torch.Tensor, layer: str) -> Any:
    def mark(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and leaf.dtype.is_floating_point:
            return _with_no_backward(leaf.detach(), recorded, layer)
        return leaf

    return _pytree.tree_map(mark, output)


class _FailingBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: torch.Tensor, recorded: torch.Tensor, layer: str) -> Any:
        ctx.layer = layer
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise _error(ctx.layer)


_with_no_backward: Any = _FailingBackward.apply  # torch declares no types for it
