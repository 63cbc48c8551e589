"""The classes that kernelized modules have: subclasses of their own class with a kernel's forward.

A subclass has the name of the original and is cached on it, so torch.compile sees one class however
often a model is kernelized.

torch itself gives modules new classes at run time (FSDP2, parametrize), derived from the module's
class, and relies on their bases. So the kernel's forward always goes below those: they are
recreated with the kernelized class as their base, and to undo it, with the original.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from kernels_core.errors import ApplyError
from kernels_core.layers import copying

if TYPE_CHECKING:
    from torch import nn

_LAYER = "_kernels_core_layer"
_CLASSES = "_kernels_core_classes"
_OWN = frozenset({copying.ORIGINAL, _LAYER, _CLASSES})

# What type() creates for each class.
_PER_CLASS = frozenset({"__dict__", "__weakref__"})


def swapped_layer(cls: type[nn.Module]) -> type[nn.Module] | None:
    """The kernel's layer whose forward a class runs, or None."""
    while _is_generated(cls):
        cls = cls.__bases__[-1]
    return cls.__dict__.get(_LAYER)


def original_class(cls: type[nn.Module]) -> type[nn.Module]:
    """The class without a kernel's forward, which may be the class itself."""
    if _is_generated(cls):
        return _around(cls, original_class(cls.__bases__[-1]))
    original: type[nn.Module] = cls.__dict__.get(copying.ORIGINAL, cls)
    return original


def kernelized_class(cls: type[nn.Module], layer: type[nn.Module]) -> type[nn.Module]:
    """The class that runs a layer's forward instead, the same one at each call.

    ApplyError where the class cannot be subclassed.
    """
    if _is_generated(cls):
        return _around(cls, kernelized_class(cls.__bases__[-1], layer))
    original = original_class(cls)
    known = _cache(original)
    if layer not in known:
        try:
            # setdefault: two threads that create the same class must both get the same one
            known.setdefault(layer, _make(original, layer))
        except TypeError as error:
            raise ApplyError(
                f"The forward of {original.__qualname__} cannot be replaced: its class cannot be "
                f"subclassed ({error}).",
                layer=layer.__name__,
            ) from error
    return known[layer]


def _is_generated(cls: type) -> bool:
    """Whether torch made a class at run time around the class of some module."""
    # Such a class claims to be defined in a module of torch, where it cannot be found.
    module = cls.__module__ or ""  # code that is run without a name has none
    return (
        module.startswith("torch.")
        and module in sys.modules
        and not hasattr(sys.modules[module], cls.__qualname__.partition(".")[0])
    )


def _cache(cls: type[nn.Module]) -> dict[Any, type[nn.Module]]:
    known: dict[Any, type[nn.Module]] | None = cls.__dict__.get(_CLASSES)
    if known is None:
        known = {}
        setattr(cls, _CLASSES, known)
    return known


def _make(original: type[nn.Module], layer: type[nn.Module]) -> type[nn.Module]:
    # Imported here, so that `kernelize` can be imported without torch.
    from torch import nn

    from kernels_core.layers.no_backward import guarded

    namespace: dict[str, Any] = {
        name: value
        for base in reversed(layer.__mro__[: layer.__mro__.index(nn.Module)])
        for name, value in base.__dict__.items()
        if name in ("forward", "has_backward", "can_torch_compile")
    }
    if not namespace.get("has_backward", True):
        namespace["forward"] = guarded(namespace["forward"], layer.__name__)
    namespace.update(copying.methods(original))
    namespace.update(
        {
            _LAYER: layer,
            "__module__": original.__module__,
            "__qualname__": original.__qualname__,
            "__doc__": original.__doc__,
            "__slots__": (),
        }
    )
    metaclass: Any = type(original)
    if original.__basicsize__ != nn.Module.__basicsize__:  # it has __slots__
        derived: type[nn.Module] = metaclass(original.__name__, (original,), namespace)
        return derived
    # Creating it with its real base would run the original's __init_subclass__, which may register
    # the class or require arguments.
    made: type[nn.Module] = metaclass(original.__name__, (nn.Module,), namespace)
    made.__bases__ = (original,)
    return made


def _around(cls: type[nn.Module], base: type[nn.Module]) -> type[nn.Module]:
    """A class that torch generated, recreated with another base."""
    if cls.__bases__[-1] is base:
        return cls
    namespace = {
        name: value
        for name, value in cls.__dict__.items()
        if name not in _PER_CLASS and name not in _OWN
    }
    if hasattr(cls, "__deepcopy__") and not hasattr(base, "__deepcopy__"):
        # torch leaves it out where it finds one, which may have been that of a kernelized base
        namespace.setdefault("__deepcopy__", copying.deepcopy_members)
    known = _cache(cls)
    made = known.get(base)
    # torch may have changed either class since, for example by parametrizing one more tensor.
    if made is None or any(made.__dict__.get(name) is not namespace[name] for name in namespace):
        metaclass: Any = type(cls)
        made = metaclass(cls.__name__, (*cls.__bases__[:-1], base), namespace)
        known[base] = made
        _cache(made)[cls.__bases__[-1]] = cls
    return made
