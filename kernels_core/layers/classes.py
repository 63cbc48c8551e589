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
import weakref
from abc import ABCMeta
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any

from kernels_core.layers import copying
from kernels_core.layers.extensible import mark_of

if TYPE_CHECKING:
    from torch import nn

_LAYER = "_kernels_core_layer"
_VARIANT = "_kernels_core_variant"
SUSPENDED = "suspended"  # the variant with the original forward
_AROUND = "_kernels_core_around"  # in a recreated class: the one that it was recreated from

# What a class has that is not for one recreated from it; type() creates the first two for each.
_PER_CLASS = frozenset({"__dict__", "__weakref__", _AROUND})

# A class refers weakly to its subclasses, and so does not keep ours. Those are kept here whose
# original is found by its name, and lives on: they may be needed again at any time.
_lasting: set[type[nn.Module]] = set()
# By forward of a kernel, guarded or not, its layer and the classes that have it. A stand-in, the
# original forward in a class for modules that do not suit the kernel, has no layer.
_forwards: weakref.WeakKeyDictionary[
    FunctionType, tuple[Callable[[], type[nn.Module] | None], weakref.WeakSet[type[nn.Module]]]
] = weakref.WeakKeyDictionary()
# Changes the members that a class is about to get, for its original class.
Members = Callable[[Any, dict[str, Any]], None]
# Two threads that make the same class must both get the same one. Making it runs foreign code.
_lock = threading.RLock()


def swapped_layer(cls: type[nn.Module]) -> type[nn.Module] | None:
    """The kernel's layer that a class was made for, or None."""
    while _is_generated(cls):
        cls = cls.__bases__[-1]
    return cls.__dict__.get(_LAYER)


def variant_of(cls: type[nn.Module]) -> str:
    """The variant of a class that was made for a layer."""
    while _is_generated(cls):
        cls = cls.__bases__[-1]
    return str(cls.__dict__.get(_VARIANT, ""))


def original_class(cls: type[nn.Module]) -> type[nn.Module]:
    """The class without a kernel's forward, which may be the class itself."""
    if _is_generated(cls):
        return _around(cls, original_class(cls.__bases__[-1]))
    original: type[nn.Module] = cls.__dict__.get(copying.ORIGINAL, cls)
    return original


def plain_class(cls: type[nn.Module]) -> type[nn.Module]:
    """The original class, without the classes that torch made around it."""
    while _is_generated(cls):
        cls = cls.__bases__[-1]
    return original_class(cls)


def layer_of_forward(function: object) -> type[nn.Module] | None:
    """The layer of the kernel whose forward a function is, or None."""
    known = _forwards.get(function) if isinstance(function, FunctionType) else None
    return known[0]() if known else None


def is_of_kernelized_class(function: object) -> bool:
    """Whether a function is the forward of a kernel, or stands in for one."""
    return isinstance(function, FunctionType) and function in _forwards


def is_replaced(made: type[nn.Module]) -> bool:
    """Whether somebody set another forward on a class that was made for a layer."""
    forward = made.__dict__.get("forward")
    return isinstance(forward, FunctionType) and forward not in _forwards


def captured_forwards() -> list[FunctionType]:
    """The forwards of kernels to which more than their classes refer, as bound methods do."""
    functions = list(_forwards)
    unknown = [lambda: None]
    expected = [sys.getrefcount(unknown[0]) + len(_having(one)) for one in functions]
    return [
        functions[number]
        for number, count in enumerate(expected)
        if sys.getrefcount(functions[number]) > count
    ]


def _having(function: FunctionType) -> list[type]:
    """The classes of layers, and those made for them, that have a forward in their namespace."""
    layer, made = _forwards[function]
    classes: set[Any] = {*made, *getattr(layer(), "__mro__", ())}
    return [cls for cls in classes if cls.__dict__.get("forward") is function]


def kernelized_class(
    cls: type[nn.Module],
    layer: type[nn.Module],
    members: Members | None = None,
    variant: str = "",
) -> type[nn.Module]:
    """The class that runs a layer's forward instead, the same one at each call.

    Variants of it have other members.
    """
    original = original_class(cls)
    if _is_generated(original):
        base = kernelized_class(original.__bases__[-1], layer, members, variant)
        return _around(original, base)
    with _lock:
        for made in type.__subclasses__(original):
            own = made.__dict__
            if own.get(_LAYER) is layer and own[_VARIANT] == variant and not is_replaced(made):
                return made
        return _make(original, layer, members, variant)


def _is_generated(cls: type) -> bool:
    """Whether torch made a class at run time around the class of some module."""
    # Such a class claims to be defined in a module of torch, where it cannot be found.
    module = cls.__module__ or ""  # code that is run without a name has none
    return (
        module.startswith("torch.")
        and module in sys.modules
        and not hasattr(sys.modules[module], cls.__qualname__.partition(".")[0])
    )


def is_found(cls: type) -> bool:
    """Whether a class is found by its name."""
    found: Any = sys.modules.get(cls.__module__)
    for part in cls.__qualname__.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    return found is cls


def _forget(phase: str, info: dict[str, int]) -> None:
    """Called before a garbage collection: classes that have lost their name may be freed by it."""
    if phase == "start" and info["generation"] == 2:
        for made in list(_lasting):
            if not is_found(original_class(made)):
                _lasting.discard(made)


def _make(
    original: type[nn.Module], layer: type[nn.Module], members: Members | None, variant: str
) -> type[nn.Module]:
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
    becomes = getattr(original, "cls_to_become", None)
    if becomes is not None and mark_of(becomes)[0] == mark_of(original)[0]:
        # torch's lazy modules get this class at their first call, and keep the kernel in it.
        namespace["cls_to_become"] = kernelized_class(becomes, layer, members, variant)
    if members is not None:
        members(original, namespace)
    namespace.update(copying.methods(original))
    namespace.update(
        {
            _LAYER: layer,
            _VARIANT: variant,
            "__module__": original.__module__,
            "__qualname__": original.__qualname__,
            "__doc__": original.__doc__,
            "__slots__": (),
        }
    )
    made = _derive(original, (original,), namespace)
    forward = namespace.get("forward")
    if isinstance(forward, FunctionType):
        of_layer = _no_layer if variant == SUSPENDED else weakref.ref(layer)
        _forwards.setdefault(forward, (of_layer, weakref.WeakSet()))[1].add(made)
    if is_found(original):
        _lasting.add(made)
        if _forget not in gc.callbacks:
            gc.callbacks.append(_forget)
            atexit.register(gc.callbacks.remove, _forget)
    return made


def _no_layer() -> None:
    return None


class _Unnoticed:
    """The first base of a class that is being made."""

    def __init_subclass__(cls, **arguments: object) -> None:
        pass


def _derive(
    like: type[nn.Module], bases: tuple[type, ...], namespace: dict[str, Any]
) -> type[nn.Module]:
    """A class with the name and metaclass of another, made without running code of its bases.

    `__init_subclass__` and metaclasses may require arguments, or register each class that is made.
    """
    metaclass: Any = type(like)
    make: Any = ABCMeta.__new__ if issubclass(metaclass, ABCMeta) else type.__new__
    made: type[nn.Module] = make(metaclass, like.__name__, (_Unnoticed, *bases), namespace)
    type.__setattr__(made, "__bases__", bases)
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
        return _derive(cls, (*cls.__bases__[:-1], base), {**namespace, _AROUND: cls})


def _has(cls: type, namespace: dict[str, Any]) -> bool:
    return all(cls.__dict__.get(name) is value for name, value in namespace.items())
