"""Fuzz the reader of Python source."""

from harness import fuzz

SEEDS = [
    """
import torch
from . import layers
from .ops import add_op_namespace_prefix as prefix

__all__ = ["layers", "silu_and_mul"]

@torch.library.custom_op("activation_abc::silu", mutates_args=())
def silu_and_mul(x: torch.Tensor, *, out: "torch.Tensor | None" = None) -> torch.Tensor:
    if out is None:
        out = torch.empty_like(x)
    return torch.ops.activation_abc.silu(x, out)
""",
    """
import torch.nn as nn

class SiluAndMul(nn.Module):
    has_backward: bool = False
    can_torch_compile: bool = True

    def forward(self, x, /, *args, scale=1.0, **kwargs):
        match x:
            case [a, *b] if (y := a): return y
            case _: return f"{x!r:>{3}}"
""",
    "def f(x: int | None, y: list[int] = []): pass\ntry: f(*x)\nexcept* E: pass\n",
    "# -*- coding: latin-1 -*-\nwith (open('a') as a, open('b') as b): lambda: (yield)\n",
]

fuzz("torch-universal", "__init__.py", [seed.encode() for seed in SEEDS])
