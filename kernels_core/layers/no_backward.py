"""Kernels without a backward fail when gradients are computed through them.

Without this, autograd would see an output that depends on nothing: the weights below such a kernel
would silently keep their values while the rest of the model trains.

Where gradients are recorded, each tensor that results from a call is replaced by one that shares
its memory and, for autograd, depends on all that the call could depend on. Computing gradients
through that dependency fails. Results that cannot be searched for tensors are refused.
"""

from __future__ import annotations

import collections
import enum
import functools
import struct
import types
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.utils import _pytree

from kernels_core.errors import NoBackwardError

_C: Any = torch._C  # torch declares no types for some of it
# What is not looked into. A module's own forward decides about the gradients of its tensors.
_PLAIN = (
    *(type(None), bool, int, float, complex, str, bytes, range, slice, type, enum.Enum),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size),
    *(torch.SymInt, torch.SymFloat, torch.SymBool, torch.Stream, torch.Event),
    *(nn.Module, torch.fx.Proxy),
)
# Classes written in C whose instances can be looked into.
_BASES = (
    *(dict, collections.OrderedDict, collections.defaultdict, list, collections.deque),
    *(types.SimpleNamespace, object),
)
_POINTER = struct.calcsize("P")
_UNFINISHED = object()


def guarded(forward: Callable[..., Any], layer: str) -> Callable[..., Any]:
    """The forward of a kernel without a backward, through whose results no gradients are computed.

    It costs something only where gradients are recorded; under `torch.no_grad`,
    `torch.inference_mode` and `torch.jit.trace` the kernel's forward runs as it is.
    """

    @functools.wraps(forward)
    def guarded_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if (
            not torch.is_grad_enabled() and forward_ad._current_level < 0
        ) or _C._get_tracing_state():
            return forward(self, *args, **kwargs)
        call = _Call(layer, self, (*args, *kwargs.values()))
        return call.results(forward(self, *args, **kwargs))

    return guarded_forward


class _Call:
    """A call of a kernel where gradients are recorded."""

    def __init__(self, layer: str, module: nn.Module, arguments: Iterable[Any]) -> None:
        self.layer = layer
        self.module = module
        self.given: dict[int, Any] = {}  # by id, the arguments and their parts, except tensors
        self.arguments: list[torch.Tensor] = []
        for argument in arguments:
            _find_tensors(argument, self.arguments, self.given)
        self.own = _tensors_of(module)
        self.transformed = _C._are_functorch_transforms_active() or forward_ad._current_level >= 0
        self.eager = not self.transformed and not torch.compiler.is_compiling()
        own = self._recorded(self.own)
        # Through what a call stored in the module, the next would keep alive the graphs of all.
        stored = [one for one in own if _is_marked(one)] if self.eager and own else ()
        new = [one for one in own if not _contains(stored, one)] if stored else own
        self.recorded = self._recorded(self.arguments) + new or own
        self.versions = [_version(tensor) for tensor in self.arguments] if self.eager else []
        self.marked: dict[torch.Tensor, torch.Tensor] = {}
        self.rebuilt: dict[int, tuple[Any, Any]] = {}
        self.replaced = 0

    def results(self, output: Any) -> Any:
        """The output, marked, as is what the kernel stored in its module and its arguments."""
        if not self.recorded:
            # The kernel may use tensors that are neither arguments nor its module's.
            found: list[torch.Tensor] = []
            _find_tensors(output, found, {})
            self.recorded = self._recorded(found)
            if not self.recorded:
                return output
        for tensor, version in zip(self.arguments, self.versions, strict=False):
            if _version(tensor) != version:
                self._take_over(tensor)
        for name, tensor in _attributes(self.module).items():
            if not _contains(self.own, tensor):
                self.module.__dict__[name] = self._tensor(tensor)
        if self.given:
            held = set(self.arguments)
            for value in self.given.values():
                self._update(value, held)
        return self._value(output)

    def _recorded(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        if self.transformed:  # tensors do not tell whether their gradients are asked for
            return tensors
        return [tensor for tensor in tensors if tensor.requires_grad]

    def _value(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if value is None or isinstance(value, _PLAIN) or id(value) in self.given:
            return value
        if id(value) in self.rebuilt:
            result = self.rebuilt[id(value)][1]
            if result is _UNFINISHED:
                raise self._refusal(value, "refers to itself")
            self.replaced += 1
            return result
        self.rebuilt[id(value)] = (value, _UNFINISHED)
        before = self.replaced
        result = self._rebuild(value)
        if self.replaced == before:  # it has no tensors
            result = value
        self.rebuilt[id(value)] = (value, result)
        return result

    def _rebuild(self, value: Any) -> Any:
        kind = type(value)
        if kind in (tuple, list, set, frozenset):
            parts = list(value)
            make: Any = kind
        else:
            parts, spec = _pytree.tree_flatten(value, is_leaf=lambda part: part is not value)
            if spec.is_leaf():
                return self._copy(value)
            make = functools.partial(_pytree.tree_unflatten, treespec=spec)
        return make([self._value(part) for part in parts])

    def _copy(self, value: Any) -> Any:
        parts = _parts(value)
        if parts is None:
            raise self._refusal(value, "cannot be looked into")
        copied = _blank(type(value))
        if isinstance(value, (list, collections.deque)):
            copied.extend(value)
        for assign, key, part in parts:
            assign(copied, key, self._value(part))
        return copied

    def _update(self, value: Any, held: set[torch.Tensor]) -> None:
        """Mark what the kernel stored in something that it was given."""
        for assign, key, part in _parts(value) or ():
            if isinstance(part, torch.Tensor) and part in held:
                continue
            before = self.replaced
            new = self._value(part)
            if self.replaced != before:
                assign(value, key, new)

    def _tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor not in self.marked:
            marked = self._mark(tensor)
            self.marked[tensor] = self.marked[marked] = marked
            if self.eager and marked is not tensor and type(tensor) is torch.Tensor:
                for name, value in tensor.__dict__.items():
                    kept = self._tensor(value) if isinstance(value, torch.Tensor) else value
                    setattr(marked, name, kept)
        self.replaced += self.marked[tensor] is not tensor
        return self.marked[tensor]

    def _mark(self, tensor: torch.Tensor) -> Any:
        if not (tensor.dtype.is_floating_point or tensor.dtype.is_complex):
            return tensor
        if self.transformed:
            if torch.compiler.is_compiling():
                _take_as_it_is()
            elif _only_functionalized():  # for which torch has no rule for a Function
                return torch.ops.kernels_core.without_backward(tensor, self.layer, self.recorded)
            return _apply_in_transform(tensor, self.layer, "traced", *self.recorded)
        if not self.eager:
            return torch.ops.kernels_core.without_backward(tensor, self.layer, self.recorded)
        # What is changed in place must not be a weight, without autograd knowing of it.
        fixed = [other for other in self.arguments if other.is_leaf and other.requires_grad]
        shared = any(_C._is_alias_of(tensor, other) for other in fixed + self.own)
        return _apply(tensor, self.layer, "view" if shared else "alias", *self.recorded)

    def _take_over(self, tensor: torch.Tensor) -> None:
        """Mark a tensor that the kernel wrote to."""
        if tensor.is_leaf and tensor.requires_grad:
            return
        if not (tensor.dtype.is_floating_point or tensor.dtype.is_complex):
            return
        _apply(tensor, self.layer, "own", *self.recorded)
        self.marked[tensor] = tensor

    def _refusal(self, value: Any, why: str) -> NoBackwardError:
        return NoBackwardError(
            f"Kernel layer {self.layer!r}, which has no backward, returned a value of type "
            f"{type(value).__qualname__}, which {why}: gradients that are computed through tensors "
            f"in it would be missing without an error. For training, call kernelize(model, "
            f"mode=Mode.TRAINING) first; for inference, use torch.no_grad().",
            layer=self.layer,
        )


def _only_functionalized() -> bool:
    """Whether the one transform is that which has nothing to do with gradients."""
    functionalize = _C._functorch.TransformType.Functionalize
    stack = _C._functorch.get_interpreter_stack()
    return bool(stack) and all(one.key() == functionalize for one in stack)


def _is_marked(tensor: torch.Tensor) -> bool:
    return type(tensor.grad_fn) is _NoBackward._backward_cls


def _contains(tensors: Iterable[torch.Tensor], value: Any) -> bool:
    return any(value is tensor for tensor in tensors)


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _tensors_of(module: nn.Module) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    found += [tensor for tensor in module._parameters.values() if tensor is not None]
    found += [tensor for tensor in module._buffers.values() if tensor is not None]
    found += _attributes(module).values()  # some wrappers of torch keep parameters there
    for child in module._modules.values():
        if child is not None:
            found += _tensors_of(child)
    return found


def _attributes(module: nn.Module) -> dict[str, torch.Tensor]:
    kind = torch.Tensor
    return {name: value for name, value in module.__dict__.items() if isinstance(value, kind)}


def _find_tensors(value: Any, found: list[torch.Tensor], seen: dict[int, Any]) -> None:
    if isinstance(value, torch.Tensor):
        found.append(value)
    elif value is not None and not isinstance(value, _PLAIN) and id(value) not in seen:
        seen[id(value)] = value
        for part in _inside(value):
            _find_tensors(part, found, seen)


def _inside(value: Any) -> list[Any]:
    if type(value) in (tuple, list, set, frozenset):
        return list(value)
    parts = _parts(value)
    if parts is not None:
        return [part for _, _, part in parts]
    inside, spec = _pytree.tree_flatten(value, is_leaf=lambda part: part is not value)
    return [] if spec.is_leaf() else inside


def _parts(value: Any) -> list[tuple[Callable[[Any, Any, Any], Any], Any, Any]] | None:
    """What a value holds: how to assign a part, its key, the part. None: it does not show it."""
    slots = _slots(type(value))
    if slots is None:
        return None
    parts: list[tuple[Callable[[Any, Any, Any], Any], Any, Any]] = []
    if isinstance(value, dict):
        parts += [(dict.__setitem__, key, part) for key, part in value.items()]
    elif isinstance(value, (list, collections.deque)):
        parts += [(type(value).__setitem__, index, part) for index, part in enumerate(value)]
    attributes = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    attributes.update(getattr(value, "__dict__", {}))
    return parts + [(object.__setattr__, name, part) for name, part in attributes.items()]


def _slots(kind: Any) -> list[str] | None:
    """The slots of a class; None if its instances hold more than items, slots and a __dict__."""
    slots: list[str] = []
    for cls in kind.__mro__:
        if cls in _BASES:
            continue
        own = [
            name
            for name, member in cls.__dict__.items()
            if isinstance(member, types.MemberDescriptorType)
        ]
        pointers = len(own) + ("__dict__" in cls.__dict__) + ("__weakref__" in cls.__dict__)
        if cls.__basicsize__ - cls.__base__.__basicsize__ > pointers * _POINTER:
            return None
        slots += own
    return slots


def _blank(kind: type) -> Any:
    """An instance as it is before __init__, whose own __new__ may require arguments."""
    base = next(cls for cls in kind.__mro__ if cls in _BASES)
    return base.__new__(kind)


class _NoBackward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: torch.Tensor, layer: str, how: str, *recorded: torch.Tensor) -> Any:
        if how == "own":
            return tensor
        if how == "view":  # autograd then refuses to change it in place
            return tensor.view_as(tensor)
        # For autograd, a detached tensor is no view: it can be changed in place.
        return tensor.clone() if tensor.is_inference() else tensor.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.layer, how = inputs[1:3]
        if how == "traced":
            ctx.shapes = [getattr(value, "shape", None) for value in inputs]
        elif how == "own":
            ctx.mark_dirty(inputs[0])

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        failed = _fail(gradient, ctx.layer)
        needed = zip(ctx.needs_input_grad, ctx.shapes, strict=True)
        return tuple(failed.expand(shape) if needs else None for needs, shape in needed)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        tangent = next(tangent for tangent in tangents if tangent is not None)
        return _fail(tangent, ctx.layer).expand(ctx.shapes[0])


# Function.apply takes 10 microseconds to bind the arguments, which only transforms need.
_apply: Any = super(torch.autograd.Function, _NoBackward).apply


def _apply_in_transform(*arguments: Any) -> Any:
    function: Any = _NoBackward  # torch declares no types for its methods
    return function.apply(*arguments)


def _take_as_it_is() -> None:
    """Tell the compiler to put calls of the above into its graph, without looking into it."""
    allow: Any = torch.compiler.allow_in_graph
    allow(_apply_in_transform)


# The compiler calls it while it traces. At import, it would import the whole compiler.
_take_as_it_is._dynamo_marked_constant = True  # type: ignore[attr-defined] # read by torch


def _without_backward(tensor: torch.Tensor, layer: str, recorded: list[torch.Tensor]) -> Any:
    # Detached, so that no backward is looked for where the kernel's operator has none.
    return _apply(tensor.detach(), layer, "traced", *recorded)


def _no_backward(gradient: torch.Tensor, layer: str) -> torch.Tensor:
    raise _error(layer)


def _no_backward_traced(gradient: torch.Tensor, layer: str) -> torch.Tensor:
    return gradient.new_empty(())


def _fail(gradient: torch.Tensor, layer: str) -> Any:
    # A compiler traces the backward also where it will never run.
    if torch._guards.detect_fake_mode(gradient) is not None:
        return torch.ops.kernels_core.no_backward(gradient, layer)
    raise _error(layer)


def _error(layer: str) -> NoBackwardError:
    return NoBackwardError(
        f"Gradients cannot be computed through kernel layer {layer!r}, which has no backward. For "
        f"training, call kernelize(model, mode=Mode.TRAINING) first; for inference, use "
        f"torch.no_grad().",
        layer=layer,
    )


def _register() -> Any:
    """Register operators, which the compiler takes as they are; a Function with a jvp it does not.

    An interrupt leaves none of them, so that this can be imported again.
    """
    kind: Any = torch.library.Library  # torch declares no types for it
    library = kind("kernels_core", "FRAGMENT")
    try:
        library.define("without_backward(Tensor tensor, str layer, Tensor[] recorded) -> Tensor")
        library.define("no_backward(Tensor gradient, str layer) -> Tensor")
        library.impl("without_backward", _without_backward, "CompositeImplicitAutograd")
        library.impl("no_backward", _no_backward, "CompositeExplicitAutograd")
        torch.library.register_fake("kernels_core::no_backward", _no_backward_traced, lib=library)
        return library
    except BaseException:
        library._destroy()
        raise


_LIBRARY = _register()
