"""A kernel with the layer `Norm`, for the norms that transformers marks as RMSNorm."""

NORM = """
import torch
from torch import nn


class layers:
    class Norm(nn.Module):
        weight: torch.Tensor
        variance_epsilon: float

        def forward(self, hidden_states):
            shape = (hidden_states.shape[-1],)
            normed = torch.rms_norm(hidden_states.float(), shape, None, self.variance_epsilon)
            return self.weight * normed.to(hidden_states.dtype)
"""
