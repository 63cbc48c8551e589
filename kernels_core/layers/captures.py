"""Forwards that others captured: a hook keeps `module.forward` somewhere, and calls it later.

Such a bound method has the function of the class that the module had then. Where it stands in a
dict, a list, a closure and the like, it can be replaced by the one of the module's class now.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import (
    CellType,
    FrameType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

import attrs
import torch
from torch import nn

from kernels_core.layers.classes import (
    captured_forwards,
    is_of_kernelized_class,
    is_replaced,
    layer_of_forward,
    swapped_layer,
)

# Undoes the replacement of one reference.
Undo = Callable[[], None]

# By id of a captured method: itself, and the one to put in its place.
Stale = dict[int, tuple[MethodType, MethodType]]

# By id, the methods that were put in the place of captured ones. They follow their modules' class
# from then on, also back to the kernel.
_following: weakref.WeakValueDictionary[int, MethodType] = weakref.WeakValueDictionary()

# A hook is a few objects; whatever has more refers to something else, such as a whole compiler.
_MOST = 10_000

# Above it, one look at each object takes less time than one comparison with each method.
_FEW = 32


@attrs.frozen
class Running:
    """The forward that a call of a module runs, as far as its instance and class tell."""

    layer: type[nn.Module] | None  # the kernel's, or None
    wrapped: bool  # whether another package's forward stands on the instance


def running(module: nn.Module) -> Running:
    """Which kernel's forward a call of a module runs, directly or inside of a wrapper."""
    forward = module.__dict__.get("forward")
    if forward is None:
        cls = type(module)
        defining = next(base for base in cls.__mro__ if "forward" in base.__dict__)
        layer = swapped_layer(defining)
        if layer is not None and is_replaced(defining):
            return Running(_called_by(cls.forward, module), True)
        if layer is not None and not _uses_kernel(cls.forward, module):
            layer = None
        if layer is None and derives_from_kernelized(cls):
            layer = _called_by(cls.forward, module)
        return Running(layer, False)
    if _is_bound(module, forward):
        return Running(_layer_run_by(forward.__func__, module), False)
    return Running(_called_by(forward, module), True)


def derives_from_kernelized(cls: type[nn.Module]) -> bool:
    """Whether a kernelized class is among the bases of one that somebody else made."""
    return any(swapped_layer(base) is not None for base in cls.__mro__)


def _is_bound(module: nn.Module, forward: object) -> bool:
    """Whether it is a forward of one of the module's classes, or of a kernel, bound to it."""
    return (
        isinstance(forward, MethodType)
        and forward.__self__ is module
        and (
            is_of_kernelized_class(forward.__func__)
            or any(
                base.__dict__.get("forward") is forward.__func__ for base in type(module).__mro__
            )
        )
    )


def _layer_run_by(function: object, module: nn.Module) -> type[nn.Module] | None:
    layer = layer_of_forward(function)
    if layer is None or not _uses_kernel(function, module):
        return None
    cls: Any = type(module)
    return swapped_layer(cls) if function is cls.forward else layer


def _uses_kernel(forward: Any, module: nn.Module) -> bool:
    """Whether the forward of a kernelized class uses the kernel for a module."""
    if is_of_kernelized_class(forward) and layer_of_forward(forward) is None:
        return False  # it stands in for a kernel
    unfit = getattr(forward, "unfit", None)  # where the conditions are looked at in each call
    return unfit is None or not unfit(module)


def casts(module: nn.Module) -> bool:
    """Whether another package's forward on the instance may convert its tensors in each call."""
    return any(
        isinstance(one, FunctionType) and not _CASTING.isdisjoint(one.__code__.co_names)
        for one in _reachable(module.forward, module)
    )


_CASTING = frozenset({"_apply", "bfloat16", "float", "half", "to", "type"})


def follows(module: nn.Module) -> bool:
    """Whether another package's forward on the instance captured one that follows the class."""
    return any(
        isinstance(one, MethodType) and one.__self__ is module and _can_follow(one)
        for one in _reachable(module.__dict__["forward"], module)
    )


def _can_follow(method: MethodType) -> bool:
    return is_of_kernelized_class(method.__func__) or id(method) in _following


def _called_by(forward: object, module: nn.Module) -> type[nn.Module] | None:
    """The kernel whose forward another package's forward holds, for this module."""
    for one in _reachable(forward, module):
        if isinstance(one, MethodType) and one.__self__ is not module:
            continue
        layer = _layer_run_by(one.__func__ if isinstance(one, MethodType) else one, module)
        if layer is not None:
            return layer
    return None


def _reachable(start: object, module: nn.Module) -> Iterator[Any]:
    """What a forward may call: itself, then what it, its closure and its objects hold.

    `__wrapped__` says which function was wrapped, and not that it is called.
    """
    seen: set[int] = set()
    pending = deque([start])
    while pending and len(seen) < _MOST:
        one = pending.popleft()
        if id(one) in seen or isinstance(one, (type, ModuleType, torch.Tensor, FrameType)):
            continue
        seen.add(id(one))
        if isinstance(one, nn.Module):
            continue
        yield one
        if isinstance(one, FunctionType):
            pending.extend(_held_by_function(one, module))
        elif isinstance(one, functools.partial):
            pending.extend((one.func, *one.args, *one.keywords.values()))
        else:
            pending.extend(gc.get_referents(one))
            called: Any = type(one).__call__ if callable(one) else None
            if isinstance(called, FunctionType):
                pending.append(called)


def _held_by_function(function: FunctionType, module: nn.Module) -> Iterator[Any]:
    yield from function.__closure__ or ()
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield from (value for name, value in function.__dict__.items() if name != "__wrapped__")
    names = function.__code__.co_names
    # accelerate's forward, for one, reads `module._old_forward`; others use getattr
    for name in (*names, *function.__code__.co_consts):
        if name != "forward" and isinstance(name, str) and name in module.__dict__:
            yield module.__dict__[name]
    for name in names:
        value = function.__globals__.get(name)
        if isinstance(value, _CONTAINERS):
            yield value
    if "forward" in names:
        yield from _forwards_by_class(function, module)


# What is looked into where a forward refers to a global variable.
_CONTAINERS = (MethodType, functools.partial, dict, list, tuple, deque)


def _forwards_by_class(function: FunctionType, module: nn.Module) -> Iterator[Any]:
    """The forward that a function finds with `super()` or with the class of the module."""
    cls: Any = type(module)
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=False))
    if "__class__" in cells:
        mro = cls.__mro__
        defining = cells["__class__"].cell_contents
        if defining in mro:
            following = mro[mro.index(defining) + 1 :]
            yield next(base.__dict__["forward"] for base in following if "forward" in base.__dict__)
    elif "type" in function.__code__.co_names or "__class__" in function.__code__.co_names:
        yield cls.forward


def follow_on_instance(module: nn.Module, undo: list[Undo]) -> None:
    """Let what stands on a module's instance run the forward of its class, where it was captured.

    What undoes that is added to a list.
    """
    names = module.__dict__.keys() - _EMPTY.keys()
    if not names:
        return
    holders: list[Any] = [module.__dict__]
    for name in names:
        holders.extend(_holders(module.__dict__[name]))
    stale: Stale = {
        id(one): (one, _current(one))
        for one in holders
        if isinstance(one, MethodType) and one.__self__ is module and _is_stale(one)
    }
    if stale:
        for holder in holders:
            _replace(holder, stale, undo)


_EMPTY = nn.Module().__dict__


def _holders(start: object) -> Iterator[Any]:
    seen: set[int] = set()
    pending = deque([start])
    while pending and len(seen) < _MOST:
        one = pending.popleft()
        if id(one) in seen or isinstance(
            one, (type, ModuleType, torch.Tensor, FrameType, nn.Module)
        ):
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, FunctionType):
            pending.extend((one.__closure__, one.__defaults__, one.__kwdefaults__, one.__dict__))
        else:
            pending.extend(gc.get_referents(one))


def _is_stale(method: MethodType) -> bool:
    """Whether a bound method runs another forward than its module's class."""
    own = getattr(type(method.__self__), "forward", None)
    return method.__func__ is not own and _can_follow(method)


def _current(method: MethodType) -> MethodType:
    """The method of the module's class, to be put in the place of a captured one."""
    made = MethodType(type(method.__self__).forward, method.__self__)  # type: ignore[attr-defined] # a module
    _following[id(made)] = made
    return made


def follow_everywhere(modules: Iterable[nn.Module], undo: list[Undo]) -> list[nn.Module]:
    """Let every captured forward of modules run that of their class, wherever it was captured.

    What undoes that is added to a list. Returns the modules of which a captured forward of a kernel
    remains, since it could not be replaced.
    """
    if not _following and not captured_forwards():
        return []
    by_id = {id(module): module for module in modules}
    for module in by_id.values():
        follow_on_instance(module, undo)
    left = {}
    stale = _stale_methods(by_id)
    if stale:
        _replace_everywhere(stale, undo)
        left = {id(module): module for module in _still_held(stale)}
    for module in by_id.values():
        if "forward" in module.__dict__:
            layer = running(module).layer
            if layer is not None and layer is not swapped_layer(type(module)):
                left[id(module)] = module
    return list(left.values())


def _stale_methods(by_id: dict[int, nn.Module]) -> Stale:
    functions = captured_forwards()
    captured = gc.get_referrers(*functions) if functions else []
    return {
        id(one): (one, _current(one))
        for one in (*captured, *_following.values())
        if isinstance(one, MethodType) and id(one.__self__) in by_id and _is_stale(one)
    }


def _replace_everywhere(stale: Stale, undo: list[Undo]) -> None:
    methods = [method for method, _ in stale.values()]
    if len(methods) <= _FEW:
        holders = gc.get_referrers(*methods)
    else:
        holders = [
            one
            for one in gc.get_objects()
            if any(id(held) in stale for held in gc.get_referents(one))
        ]
    for holder in holders:
        if holder is not methods:
            _replace(holder, stale, undo)


def _replace(holder: Any, stale: Stale, undo: list[Undo]) -> None:
    """Replace methods in what refers to them directly."""
    for value, put in list(_places(holder)):
        if id(value) in stale:
            old, new = stale[id(value)]
            # not with the method itself: whether somebody else refers to it is counted
            undo.append(functools.partial(_bind_and, put, old.__func__, old.__self__))
            with contextlib.suppress(AttributeError, TypeError):  # an attribute that is read-only
                put(new)


def _bind_and(put: Callable[[Any], object], function: Any, module: Any) -> None:
    put(MethodType(function, module))


def _places(holder: Any) -> Iterator[tuple[Any, Callable[[Any], object]]]:
    """What a container refers to, each with what puts something else in its place."""
    if isinstance(holder, dict):
        for key, value in list(holder.items()):
            yield value, functools.partial(holder.__setitem__, key)
    elif isinstance(holder, (list, deque)):
        for index, value in enumerate(list(holder)):
            yield value, functools.partial(holder.__setitem__, index)
    elif isinstance(holder, CellType):
        with contextlib.suppress(ValueError):  # an empty cell
            yield holder.cell_contents, functools.partial(setattr, holder, "cell_contents")
    elif isinstance(holder, functools.partial):
        yield holder.func, functools.partial(_set_function, holder)
        for index, value in enumerate(holder.args):
            yield value, functools.partial(_set_argument, holder, index)
    elif isinstance(holder, FunctionType):
        for index, value in enumerate(holder.__defaults__ or ()):
            yield value, functools.partial(_set_default, holder, index)
    elif not isinstance(holder, (type, tuple, FrameType, MethodType)):
        yield from _attributes(holder)


def _attributes(holder: Any) -> Iterator[tuple[Any, Callable[[Any], object]]]:
    yield from _places(getattr(holder, "__dict__", {}))
    for cls in type(holder).__mro__:
        for slot in list(cls.__dict__.values()):
            if isinstance(slot, MemberDescriptorType):
                with contextlib.suppress(AttributeError):
                    yield slot.__get__(holder), functools.partial(slot.__set__, holder)


def _set_function(holder: Any, function: Any) -> None:
    holder.__setstate__((function, holder.args, holder.keywords, holder.__dict__))


def _set_argument(holder: Any, index: int, value: Any) -> None:
    arguments = (*holder.args[:index], value, *holder.args[index + 1 :])
    holder.__setstate__((holder.func, arguments, holder.keywords, holder.__dict__))


def _set_default(function: FunctionType, index: int, value: Any) -> None:
    defaults = function.__defaults__ or ()
    function.__defaults__ = (*defaults[:index], value, *defaults[index + 1 :])


def _still_held(stale: Stale) -> list[nn.Module]:
    """The modules whose methods somebody refers to yet, such as a variable of a function."""
    left: list[Any] = []
    while stale:
        method = stale.popitem()[1][0]
        if sys.getrefcount(method) > _ALONE:
            left.append(method.__self__)
    return left


def _count_alone() -> int:
    method = MethodType(print, 0)
    return sys.getrefcount(method)


_ALONE = _count_alone()
