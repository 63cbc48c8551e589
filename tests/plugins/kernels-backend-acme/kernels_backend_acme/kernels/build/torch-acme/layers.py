"""The layers. Their forward runs on instances of the class that it is swapped into."""

import torch
from torch import nn


class RMSNorm(nn.Module):
    """A norm in one operator, for modules that have these members."""

    weight: torch.Tensor
    variance_epsilon: float

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Normalize the last dimension."""
        return nn.functional.rms_norm(
            hidden_states, self.weight.shape, self.weight, self.variance_epsilon
        )
