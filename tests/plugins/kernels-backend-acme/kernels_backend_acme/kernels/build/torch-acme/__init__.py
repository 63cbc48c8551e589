"""Acme's kernels, in PyTorch operators only."""
# ruff: noqa: N999 # the directory is named after the variant

from . import layers

__all__ = ["layers"]
