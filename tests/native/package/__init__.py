"""A SiLU with a factor, in native code."""

from . import layers
from ._operators import scaled_silu

__all__ = ["layers", "scaled_silu"]
