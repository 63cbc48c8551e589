"""Kernels without a backward fail when gradients are asked of them.

Without this, autograd would see an output that depends on nothing: the weights below such a kernel
would silently keep their values while the rest of the model trains.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from kernels_core.errors import NoBackwardError

if TYPE_CHECKING:
    import torch


def guarded(forward: Callable[..., Any], layer: str) -> Callable[..., Any]:
    """The forward of a kernel without a backward, whose outputs raise when it is asked for.

    It costs something only where gradients are recorded; under `torch.no_grad` or
    `torch.inference_mode` the kernel's forward runs as it is.

    Args:
        forward: the kernel's forward.
        layer: the layer's name, for the message.
    """
    import torch

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
        f"Gradients are asked of the kernel layer {layer!r}, which has no backward. For training, "
        f"call kernelize(model, mode=Mode.TRAINING) first; for inference, use torch.no_grad().",
        layer=layer,
    )


def _recorded(module: Any, args: Any, kwargs: Any) -> Iterator[torch.Tensor]:
    """The tensors that a call depends on and that gradients are recorded for."""
    import torch
    from torch.utils import _pytree

    for leaf in _pytree.tree_leaves((args, kwargs)):
        if isinstance(leaf, torch.Tensor) and leaf.requires_grad:
            yield leaf
    for parameter in module.parameters():
        if parameter.requires_grad:
            yield parameter


def _with_failing_backward(output: Any, recorded: torch.Tensor, layer: str) -> Any:
    import torch
    from torch.utils import _pytree

    def mark(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and leaf.dtype.is_floating_point:
            return _failing_backward().apply(leaf.detach(), recorded, layer)
        return leaf

    return _pytree.tree_map(mark, output)


@functools.cache
def _failing_backward() -> Any:
    import torch

    class FailingBackward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, output: torch.Tensor, recorded: torch.Tensor, layer: str) -> Any:
            ctx.layer = layer
            return output.view_as(output)

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            raise _error(ctx.layer)

    return FailingBackward
