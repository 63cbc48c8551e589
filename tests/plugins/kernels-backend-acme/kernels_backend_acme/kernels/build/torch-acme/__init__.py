"""Acme's kernels, in PyTorch operators only."""
# ruff: noqa: N999 # the directory of a variant bears the variant's name

from . import layers

__all__ = ["layers"]
