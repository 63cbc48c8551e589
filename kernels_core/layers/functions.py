"""Extensible functions that another implementation made.

Each is an instance of a class that nobody finds by its name. So a model that holds one could not be
pickled, and a copy of it would hold a function of its own, which its forward never calls.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kernels_core.layers.classes import original_class

if TYPE_CHECKING:
    from torch import nn


def reference_to(function: nn.Module, owners: Iterable[nn.Module]) -> str:
    """The global name of a function that does not know it, as "module:name"; or "".

    Args:
        function: the extensible function.
        owners: modules that use it. Their code refers to it by a name in its own module.
    """
    if "__reduce_ex__" in original_class(type(function)).__dict__:
        return ""
    for module in dict.fromkeys(type(owner).__module__ for owner in owners):
        there = vars(sys.modules[module]) if module in sys.modules else {}
        for name, value in list(there.items()):  # other threads may import
            if value is function:
                return f"{module}:{name}"
    return ""


def refer_by_name(function: nn.Module, reference: str) -> None:
    """Let a function be pickled and copied as plain functions are: by its name.

    Args:
        function: the extensible function.
        reference: its name, see `reference_to`.
    """

    def reduce_ex(self: Any, protocol: Any) -> Any:
        return pkgutil.resolve_name, (reference,)

    cls: Any = original_class(type(function))
    cls.__reduce_ex__ = reduce_ex
