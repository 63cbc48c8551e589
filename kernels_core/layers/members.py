"""Which members a kernel's layer may have, beside its forward."""

from __future__ import annotations

FLAGS = frozenset({"can_torch_compile", "has_backward"})
"""The flags with which a layer describes its forward."""

HARMLESS = frozenset({"__dir__", "__repr__", "__str__", "_get_name", "extra_repr"})
"""Members of nn.Module that published layers override, and that only say how a module is shown: it
makes no difference that they never reach the layer whose forward is replaced."""
