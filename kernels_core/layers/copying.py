"""How kernelized modules, and extensible functions, are copied and pickled.

A copy of a module stays kernelized and computes with its own weights. A pickle holds the original
class, so that it loads where this package is not installed.

A function is pickled and copied by its name. Those that another implementation made extensible need
help: each is an instance of a class that cannot be found by its name, so a model that holds one
could not be pickled, and a copy of it would hold a function of its own, which its forward never
calls.
"""

from __future__ import annotations

import copy
import copyreg
import functools
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

ORIGINAL = "_kernels_core_original"


def methods(original: type[nn.Module]) -> dict[str, Any]:
    """What a class that is derived from `original` needs to copy and pickle its instances."""
    return {
        ORIGINAL: original,
        "__reduce_ex__": _reduce_ex,
        "__copy__": _copy,
        "__deepcopy__": _deepcopy,
    }


def _original(cls: type) -> Any:
    """The original of a kernelized class, or of a class derived from one."""
    return cls._kernels_core_original  # type: ignore[attr-defined] # see methods()


def _pickled_class(cls: type) -> Any:
    return cls.__dict__.get(ORIGINAL, cls)


def _reduce_ex(self: Any, protocol: Any) -> Any:
    cls = type(self)
    original = _pickled_class(cls)
    registered = copyreg.dispatch_table.get(original)  # pickle looks for the class itself
    reduced = registered(self) if registered else _original(cls).__reduce_ex__(self, protocol)
    if isinstance(reduced, str):
        return reduced
    construct, arguments, *rest = reduced
    arguments = tuple(original if argument is cls else argument for argument in arguments)
    # pickle insists that these two make an object of the class that is being pickled
    if construct is copyreg.__newobj__:  # type: ignore[attr-defined] # not in the stubs
        arguments, keywords = arguments[1:], {}
    elif construct is copyreg.__newobj_ex__:  # type: ignore[attr-defined] # not in the stubs
        _, arguments, keywords = arguments
    else:
        return (original if construct is cls else construct, arguments, *rest)
    if not arguments and not keywords:
        return (copyreg._reconstructor, (original, object, None), *rest)  # type: ignore[attr-defined]
    return (functools.partial(original.__new__, original, *arguments, **keywords), (), *rest)


def _copied(self: Any, memo: dict[int, Any] | None) -> Any:
    reduced = self.__reduce_ex__(4)
    if isinstance(reduced, str):
        return self
    made = copy._reconstruct(self, memo, *reduced)  # type: ignore[attr-defined] # as copy makes it
    return _as_class(made, type(self))


def _as_class(copied: Any, cls: type) -> Any:
    if type(copied) is _pickled_class(cls):
        copied.__class__ = cls
    return copied


def _copy(self: Any) -> Any:
    own = getattr(_original(type(self)), "__copy__", None)
    return _as_class(own(self), type(self)) if own else _copied(self, None)


def _deepcopy(self: Any, memo: dict[int, Any]) -> Any:
    own = getattr(_original(type(self)), "__deepcopy__", None)
    if own:
        return _as_class(own(self, memo), type(self))
    if "parametrizations" in self._modules:
        return deepcopy_members(self, memo)
    return _copied(self, memo)


def deepcopy_members(self: Any, memo: dict[int, Any]) -> Any:
    """Copy a parametrized module as torch does, which forbids `__getstate__` for it."""
    result = object.__new__(type(self))
    memo[id(self)] = result
    result.__dict__ = copy.deepcopy(self.__dict__, memo)
    return result


def reference_to(function: nn.Module, original: type, owners: Iterable[nn.Module]) -> str:
    """Where an extensible function is found, as "module:name"; "" where it needs no help.

    The code of its owners, the modules that use it, refers to it by a name in their own module.
    """
    if "__reduce_ex__" in original.__dict__ or original in copyreg.dispatch_table:
        return ""
    for module in dict.fromkeys(type(owner).__module__ for owner in owners):
        names = vars(sys.modules[module]) if module in sys.modules else {}
        for name, value in list(names.items()):  # other threads may import
            if value is function:
                return f"{module}:{name}"
    return ""


def refer_by_name(original: Any, reference: str) -> None:
    """Let the only instance of a class be pickled and copied as functions are: by its name."""

    def reduce(self: Any) -> Any:
        import pkgutil  # half a millisecond that only pickling needs

        return pkgutil.resolve_name, (reference,)

    # In Python's table for classes of others, so that nothing is stored on the class.
    copyreg.pickle(original, reduce)
