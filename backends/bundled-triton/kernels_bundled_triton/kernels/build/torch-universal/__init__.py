"""Layers of language models, written in Triton for all GPUs that it supports."""

from . import layers
from .activations import gated, packed_gated
from .loss import cross_entropy
from .norms import add_rms_norm, layer_norm, rms_norm
from .rotary import apply_rotary_pos_emb

__all__ = [
    "add_rms_norm",
    "apply_rotary_pos_emb",
    "cross_entropy",
    "gated",
    "layer_norm",
    "layers",
    "packed_gated",
    "rms_norm",
]
