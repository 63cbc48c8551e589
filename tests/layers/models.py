"""A layer that several test files kernelize."""

from __future__ import annotations

import torch
from torch import nn

from kernels_core import use_kernel_forward_from_hub


@use_kernel_forward_from_hub("Scale")
class Scale(nn.Module):
    """Multiplies by its weight, which is 2 everywhere."""

    def __init__(self, device: str | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 2.0, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x
