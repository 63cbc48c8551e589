"""Layers of language models for the CPU, in PyTorch operators only."""
# ruff: noqa: N999 # the directory of a variant bears the variant's name

from . import layers
from .functional import apply_rotary_pos_emb, rms_norm, silu_and_mul

__all__ = ["apply_rotary_pos_emb", "layers", "rms_norm", "silu_and_mul"]
