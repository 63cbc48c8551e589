"""The layer."""

import torch
from torch import nn

from ._operators import scaled_silu


class ScaledSiLU(nn.Module):
    """Right for a SiLU that is multiplied by its module's `scale`."""

    has_backward = False
    can_torch_compile = True

    scale: float

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the activation."""
        return scaled_silu(x, self.scale)
