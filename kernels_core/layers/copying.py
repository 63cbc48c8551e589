"""How kernelized modules are copied and pickled.

A copy stays kernelized and computes with its own weights. A pickle holds the original class, so
that it loads where this package is not installed.
"""

from __future__ import annotations

import copy
import copyreg
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

ORIGINAL = "_kernels_core_original"


def methods(original: type[nn.Module]) -> dict[str, Any]:
    """What a kernelized class needs to copy and pickle its instances.

    Args:
        original: the class that it is derived from.
    """
    return {
        ORIGINAL: original,
        "__reduce_ex__": _reduce_ex,
        "__copy__": _copy,
        "__deepcopy__": _deepcopy,
    }


def _original(cls: type) -> Any:
    """The original of a kernelized class, or of a class that somebody derived from one."""
    return cls._kernels_core_original  # type: ignore[attr-defined] # see methods()


def _pickled_class(cls: type) -> Any:
    return cls.__dict__.get(ORIGINAL, cls)


def _reduce_ex(self: Any, protocol: Any) -> Any:
    cls = type(self)
    reduced = _original(cls).__reduce_ex__(self, protocol)
    if isinstance(reduced, str):
        return reduced
    construct, arguments, *rest = reduced
    original = _pickled_class(cls)
    if construct is copyreg.__newobj__:  # type: ignore[attr-defined] # not in the stubs
        # pickle insists that __newobj__ makes an object of the class that is being pickled
        return (copyreg._reconstructor, (original, object, None), *rest)  # type: ignore[attr-defined]
    return (construct, tuple(original if a is cls else a for a in arguments), *rest)


def _rebuilt(self: Any, copied_state: Callable[[Any, Any], Any]) -> Any:
    """A copy of a module, made the way that the copy module makes it, in the module's own class."""
    reduced = self.__reduce_ex__(4)
    if isinstance(reduced, str):
        return self
    construct, arguments, *rest = reduced
    result = construct(*arguments)
    state = copied_state(result, rest[0] if rest else None)
    if state is not None:
        result.__setstate__(state)
    return _as_class(result, type(self))


def _as_class(copied: Any, cls: type) -> Any:
    if type(copied) is _pickled_class(cls):
        copied.__class__ = cls
    return copied


def _copy(self: Any) -> Any:
    own = getattr(_original(type(self)), "__copy__", None)
    if own:
        return _as_class(own(self), type(self))
    return _rebuilt(self, lambda _, state: state)


def _deepcopy(self: Any, memo: dict[int, Any]) -> Any:
    own = getattr(_original(type(self)), "__deepcopy__", None)
    if own:
        return _as_class(own(self, memo), type(self))
    if "parametrizations" in self._modules:
        return deepcopy_members(self, memo)

    def copied_state(result: Any, state: Any) -> Any:
        memo[id(self)] = result  # before its members, which may refer back to it
        return copy.deepcopy(state, memo)

    return _rebuilt(self, copied_state)


def deepcopy_members(self: Any, memo: dict[int, Any]) -> Any:
    """Copy a parametrized module as torch does, which forbids to take its state."""
    result = object.__new__(type(self))
    memo[id(self)] = result
    result.__dict__ = copy.deepcopy(self.__dict__, memo)
    return result
