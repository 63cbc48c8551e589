"""The classes that kernelized modules have: subclasses of their own class with a kernel's forward.

A subclass has the name of the original. Nothing is stored on the original, because what a class
holds is sent along where cloudpickle and others send it by value. The subclasses are kept here, so
that torch.compile sees one class however often models are kernelized.

torch itself gives modules new classes at run time (FSDP2, parametrize), derived from the module's
class, and relies on their bases. So the kernel's forward always goes below those: they are
recreated with the kernelized class as their base, and to undo it, with the original.
"""

from __future__ import annotations

import atexit
import gc
import sys
import threading
from typing import TYPE_CHECKING, Any

from kernels_core.errors import ApplyError
from kernels_core.layers import copying

if TYPE_CHECKING:
    from torch import nn

_LAYER = "_kernels_core_layer"
_AROUND = "_kernels_core_around"  # in a recreated class: the one that it was recreated from

# What a class has that is not for one recreated from it; type() creates the first two for each.
_PER_CLASS = frozenset({"__dict__", "__weakref__", _AROUND})

# A class refers weakly to its subclasses, and so does not keep ours. Those are kept here whose
# original is found by its name, and lives on: they may be needed again at any time.
_lasting: set[type[nn.Module]] = set()
# Two threads that make the same class must both get the same one. Making it runs foreign code.
_lock = threading.RLock()


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
    original = original_class(cls)
    if _is_generated(original):
        return _around(original, kernelized_class(original.__bases__[-1], layer))
    try:
        with _lock:
            for made in type.__subclasses__(original):
                if made.__dict__.get(_LAYER) is layer:
                    return made
            return _make(original, layer)
    except TypeError as error:
        raise ApplyError(
            f"The forward of {original.__qualname__} cannot be replaced: its class cannot be "
            f"subclassed ({error}).",
            layer=layer.__name__,
        ) from error


def _is_generated(cls: type) -> bool:
    """Whether torch made a class at run time around the class of some module."""
    # Such a class claims to be defined in a module of torch, where it cannot be found.
    module = cls.__module__ or ""  # code that is run without a name has none
    return (
        module.startswith("torch.")
        and module in sys.modules
        and not hasattr(sys.modules[module], cls.__qualname__.partition(".")[0])
    )


def _is_found(cls: type) -> bool:
    """Whether a class is found by its name."""
    found: Any = sys.modules.get(cls.__module__)
    for part in cls.__qualname__.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    return found is cls


def _forget(phase: str, info: dict[str, int]) -> None:
    """Called before a garbage collection: classes that have lost their name may be freed by it."""
    if phase == "start" and info["generation"] == 2:
        for made in list(_lasting):
            if not _is_found(original_class(made)):
                _lasting.discard(made)


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
    made = _subclass(original, namespace)
    if _is_found(original):
        _lasting.add(made)
        if _forget not in gc.callbacks:
            gc.callbacks.append(_forget)
            atexit.register(gc.callbacks.remove, _forget)
    return made


def _subclass(original: type[nn.Module], namespace: dict[str, Any]) -> type[nn.Module]:
    from torch import nn

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
    namespace = {name: value for name, value in cls.__dict__.items() if name not in _PER_CLASS}
    if hasattr(cls, "__deepcopy__") and not hasattr(base, "__deepcopy__"):
        # torch leaves it out where it finds one, which may have been that of a kernelized base
        namespace.setdefault("__deepcopy__", copying.deepcopy_members)
    with _lock:
        for made in type.__subclasses__(base):
            related = made is cls.__dict__.get(_AROUND) or made.__dict__.get(_AROUND) is cls
            # torch may have changed it since, for example by parametrizing one more tensor.
            if related and _has(made, namespace):
                return made
        metaclass: Any = type(cls)
        bases = (*cls.__bases__[:-1], base)
        recreated: type[nn.Module] = metaclass(cls.__name__, bases, {**namespace, _AROUND: cls})
        return recreated


def _has(cls: type, namespace: dict[str, Any]) -> bool:
    return all(cls.__dict__.get(name) is value for name, value in namespace.items())
