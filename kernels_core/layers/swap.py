"""Replacing a module's forward by giving the instance a subclass of its class.

Nothing is stored on the instance, so there is no reference cycle, copies compute with their own
weights, `state_dict` and hooks stay as they were, and undoing it is assigning the class that was.
The subclass has the name of the original and is cached on it: torch.compile sees one class however
often a model is kernelized.
"""

from __future__ import annotations

import copy
import copyreg
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from kernels_core.errors import ApplyError

if TYPE_CHECKING:
    from torch import nn

_ORIGINAL = "_kernels_core_original"
_LAYER = "_kernels_core_layer"
_CACHE = "_kernels_core_classes"


def original_class(cls: type[nn.Module]) -> type[nn.Module]:
    """The class as it was before its forward was replaced; any other class itself."""
    original: type[nn.Module] = cls.__dict__.get(_ORIGINAL, cls)
    return original


def swapped_layer(cls: type[nn.Module]) -> type[nn.Module] | None:
    """The layer whose forward a class runs; None for a class that nothing was swapped in."""
    return cls.__dict__.get(_LAYER)


def kernelized_class(original: type[nn.Module], layer: type[nn.Module]) -> type[nn.Module]:
    """The subclass of a class that runs a layer's forward; the same one at each call.

    Args:
        original: the class whose forward is replaced.
        layer: the kernel's layer.

    Raises:
        ApplyError: the class does not let itself be subclassed.
    """
    known: dict[type[nn.Module], type[nn.Module]] | None = original.__dict__.get(_CACHE)
    if known is None:
        known = {}
        setattr(original, _CACHE, known)
    if layer not in known:
        try:
            # setdefault: two threads that make the same class must both get the one that stays
            known.setdefault(layer, _make_class(original, layer))
        except TypeError as error:
            raise ApplyError(
                f"The forward of {original.__qualname__} cannot be replaced: its class does not "
                f"let itself be subclassed ({error}).",
                layer=layer.__name__,
            ) from error
    return known[layer]


def kernelized_modules(model: nn.Module) -> dict[type[nn.Module], list[nn.Module]]:
    """The modules of a model whose forward was replaced, and its functions, by their class."""
    by_class: dict[type[nn.Module], list[nn.Module]] = {}
    functions: dict[nn.Module, None] = {}
    for module in model.modules():
        if swapped_layer(type(module)) is not None:
            by_class.setdefault(type(module), []).append(module)
        functions.update(dict.fromkeys(module.__dict__.get("_kernel_funcs", {}).values()))
    for function in functions:
        if swapped_layer(type(function)) is not None:
            by_class.setdefault(type(function), []).append(function)
    return by_class


def _make_class(original: type[nn.Module], layer: type[nn.Module]) -> type[nn.Module]:
    from torch import nn

    namespace: dict[str, Any] = {
        name: value
        for base in reversed(layer.__mro__[: layer.__mro__.index(nn.Module)])
        for name, value in base.__dict__.items()
        if name in ("forward", "has_backward", "can_torch_compile")
    }
    namespace.update(
        {
            _ORIGINAL: original,
            _LAYER: layer,
            "__module__": original.__module__,
            "__qualname__": original.__qualname__,
            "__doc__": original.__doc__,
            "__slots__": (),
            "__reduce_ex__": _reduce_ex,
            "__copy__": _copy,
            "__deepcopy__": _deepcopy,
        }
    )
    metaclass: Any = type(original)
    if original.__basicsize__ != nn.Module.__basicsize__:  # it has __slots__
        derived: type[nn.Module] = metaclass(original.__name__, (original,), namespace)
        return derived
    # Under its real base from the start, it would run the original's __init_subclass__, which may
    # register the class or demand arguments.
    made: type[nn.Module] = metaclass(original.__name__, (nn.Module,), namespace)
    made.__bases__ = (original,)
    return made


def _base_original(cls: type) -> Any:
    """The original of a kernelized class, or of a class that somebody derived from one."""
    return cls._kernels_core_original  # type: ignore[attr-defined] # set by _make_class


def _reduce_ex(self: Any, protocol: Any) -> Any:
    """Pickle as the original class, so that a file loads where this package is not installed."""
    cls = type(self)
    reduced = _base_original(cls).__reduce_ex__(self, protocol)
    if isinstance(reduced, str):
        return reduced
    construct, arguments, *rest = reduced
    original = original_class(cls)
    if construct is copyreg.__newobj__:  # type: ignore[attr-defined] # not in the stubs
        # pickle insists that __newobj__ makes an object of the class that is being pickled
        return (copyreg._reconstructor, (original, object, None), *rest)  # type: ignore[attr-defined]
    return (construct, tuple(original if a is cls else a for a in arguments), *rest)


def _rebuilt(self: Any, copied_state: Callable[[Any, Any], Any]) -> Any:
    """A copy of a module, made the way that the copy module makes it, in the module's own class."""
    reduced = self.__reduce_ex__(4)
    if isinstance(reduced, str):
        return self
    construct, arguments, state = reduced[:3]
    result = construct(*arguments)
    state = copied_state(result, state)
    if state is not None:
        result.__setstate__(state)
    return _as_class(result, type(self))


def _as_class(copied: Any, cls: type) -> Any:
    if type(copied) is original_class(cls):
        copied.__class__ = cls
    return copied


def _copy(self: Any) -> Any:
    own = getattr(_base_original(type(self)), "__copy__", None)
    if own:
        return _as_class(own(self), type(self))
    return _rebuilt(self, lambda _, state: state)


def _deepcopy(self: Any, memo: dict[int, Any]) -> Any:
    own = getattr(_base_original(type(self)), "__deepcopy__", None)
    if own:
        return _as_class(own(self, memo), type(self))

    def copied_state(result: Any, state: Any) -> Any:
        memo[id(self)] = result  # before its members, which may refer back to it
        return copy.deepcopy(state, memo)

    return _rebuilt(self, copied_state)


def assign(changes: Iterable[tuple[type[nn.Module], type[nn.Module], list[nn.Module]]]) -> None:
    """Give modules another class: all of them, or none.

    Args:
        changes: groups of modules, as (their class, the class they get, the modules).

    Raises:
        ApplyError: Python refuses the assignment; every module has its class again.
    """
    started: list[tuple[type[nn.Module], list[nn.Module]]] = []
    watched = "torch._dynamo" in sys.modules
    try:
        for before, after, modules in changes:
            started.append((before, modules))
            for module in modules:
                module.__class__ = after
                if watched:
                    _notify_guards(module)
    except BaseException as error:
        for before, modules in started:
            for module in modules:
                module.__class__ = before
        if isinstance(error, TypeError):
            raise ApplyError(
                f"The class of a {before.__qualname__} cannot be changed: {error}",
                layer=before.__name__,
            ) from error
        raise


def _notify_guards(module: nn.Module) -> None:
    """Make torch.compile look at a module again.

    On Python 3.12 and newer its guards on a module, the one on the class included, are skipped as
    long as no dict of the module was written to. An equal set in place of one is such a write.
    """
    attributes = module.__dict__
    attributes["_non_persistent_buffers_set"] = set(attributes["_non_persistent_buffers_set"])
