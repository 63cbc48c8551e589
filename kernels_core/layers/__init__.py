"""Extensible layers, mappings, and replacing forwards; `kernels_core.api` composes it."""
