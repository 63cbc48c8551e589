"""Kernels without a backward fail when gradients are computed through them.

Without this, autograd would see an output that depends on nothing: the weights below such a kernel
would silently keep their values while the rest of the model trains.

Where gradients are recorded, each tensor that results from a call is replaced by one that shares its
memory and, for autograd, depends on all that the call could depend on. Computing gradients through
that dependency fails. What cannot be looked into for tensors is refused.
"""

from __future__ import annotations

import collections
import enum
import functools
import struct
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.utils import _pytree

from kernels_core.errors import NoBackwardError

# What is not looked into. A module's own forward decides about the gradients of its tensors.
_PLAIN = (
    *(type(None), bool, int, float, complex, str, bytes, range, slice, type, enum.Enum),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size, torch.Generator),
    *(torch.SymInt, torch.SymFloat, torch.SymBool, torch.Stream, torch.Event, nn.Module),
)
_CONTAINERS = (
    *(dict, collections.OrderedDict, collections.defaultdict),
    *(list, collections.deque),
)
_POINTER = struct.calcsize("P")
_UNFINISHED = object()


def guarded(forward: Callable[..., Any], layer: str) -> Callable[..., Any]:
    """The forward of a kernel without a backward, through whose results no gradients are computed.

    It costs something only where gradients are recorded; under `torch.no_grad` or
    `torch.inference_mode` the kernel's forward runs as it is.
    """

    @functools.wraps(forward)
    def guarded_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled() and forward_ad._current_level < 0:
            return forward(self, *args, **kwargs)
        call = _Call(layer, self, (*args, *kwargs.values()))
        return call.results(forward(self, *args, **kwargs))

    return guarded_forward


class _Call:
    """A call of a kernel where gradients are recorded."""

    def __init__(self, layer: str, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        self.layer = layer
        self.module = module
        self.given: dict[int, Any] = {}  # by id, the arguments and their parts, except tensors
        self.arguments: list[torch.Tensor] = []
        for argument in arguments:
            self.arguments += _tensors_in(argument, self.given)
        self.own = list(_tensors_of(module))
        self.transformed = (
            torch._C._functorch.peek_interpreter_stack() is not None
            or forward_ad._current_level >= 0
        )
        self.eager = not self.transformed and not torch.compiler.is_compiling()
        self.recorded = self._recorded(self.arguments) + self._recorded(self.own)
        watched = self.arguments if self.eager else []
        self.versions = [_version(tensor) for tensor in watched]
        self.marked: dict[torch.Tensor, torch.Tensor] = {}
        self.rebuilt: dict[int, tuple[Any, Any]] = {}

    def results(self, output: Any) -> Any:
        """The output, marked, as is what the kernel stored in its module and its arguments."""
        if not self.recorded:
            # The kernel may use tensors that are neither arguments nor its module's.
            self.recorded = self._recorded(_tensors_in(output, {}))
            if not self.recorded:
                return output
        for tensor, version in zip(self.arguments, self.versions):
            if _version(tensor) != version:
                self._take_over(tensor)
        attributes = self.module.__dict__
        for name, value in list(attributes.items()):
            if isinstance(value, torch.Tensor) and not _contains(self.own, value):
                attributes[name] = self._tensor(value)
        for value in self.given.values():
            self._update(value)
        return self._value(output)

    def _recorded(self, tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        # In a transform, a tensor does not tell whether its gradient is asked for.
        return [tensor for tensor in tensors if tensor.requires_grad or self.transformed]

    def _value(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, _PLAIN) or id(value) in self.given:
            return value
        if id(value) not in self.rebuilt:
            self.rebuilt[id(value)] = (value, _UNFINISHED)
            self.rebuilt[id(value)] = (value, self._rebuild(value))
        result = self.rebuilt[id(value)][1]
        if result is _UNFINISHED:
            raise self._refusal(value, "refers to itself")
        return result

    def _rebuild(self, value: Any) -> Any:
        """A value with marked tensors: itself if it has none."""
        kind = type(value)
        if kind in (tuple, list, set, frozenset):
            parts = list(value)
            make: Any = kind
        else:
            parts, spec = _pytree.tree_flatten(value, is_leaf=lambda part: part is not value)
            if spec.is_leaf():
                return self._copy(value)
            make = functools.partial(_pytree.tree_unflatten, treespec=spec)
        marked = [self._value(part) for part in parts]
        if all(new is old for new, old in zip(marked, parts)):
            return value
        return make(marked)

    def _copy(self, value: Any) -> Any:
        parts = _parts(value)
        if parts is None:
            raise self._refusal(value, "cannot be looked into")
        marked = [self._value(part) for _, _, part in parts]
        if all(new is part for new, (_, _, part) in zip(marked, parts)):
            return value
        copied = _blank(type(value))
        if isinstance(value, (list, collections.deque)):
            copied.extend(value)
        for new, (assign, key, _) in zip(marked, parts):
            assign(copied, key, new)
        return copied

    def _update(self, value: Any) -> None:
        """Mark what the kernel stored in something that it was given."""
        for assign, key, part in _parts(value) or ():
            if not _contains(self.arguments, part):
                new = self._value(part)
                if new is not part:
                    assign(value, key, new)

    def _tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor not in self.marked:
            marked = self._mark(tensor)
            self.marked[tensor] = self.marked[marked] = marked
        return self.marked[tensor]

    def _mark(self, tensor: torch.Tensor) -> torch.Tensor:
        if not (tensor.dtype.is_floating_point or tensor.dtype.is_complex):
            return tensor
        if not self.eager:
            return _transformable(tensor, self.layer, "alias", *self.recorded)
        known = (*self.arguments, *self.own)
        shared = any(torch._C._is_alias_of(tensor, other) for other in known)
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


def _contains(tensors: list[torch.Tensor], value: Any) -> bool:
    return any(value is tensor for tensor in tensors)


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _tensors_of(module: nn.Module) -> Iterator[torch.Tensor]:
    """The tensors of a module and its submodules; some wrappers keep parameters as attributes."""
    for tensors in (module._parameters, module._buffers, module.__dict__):
        for tensor in tensors.values():
            if isinstance(tensor, torch.Tensor):
                yield tensor
    for child in module._modules.values():
        if child is not None:
            yield from _tensors_of(child)


def _tensors_in(value: Any, seen: dict[int, Any]) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif not isinstance(value, _PLAIN) and id(value) not in seen:
        seen[id(value)] = value
        parts = _parts(value)
        if parts is None:
            inside, spec = _pytree.tree_flatten(value, is_leaf=lambda part: part is not value)
            if spec.is_leaf():
                inside = list(value) if type(value) in (set, frozenset) else []
        else:
            inside = [part for _, _, part in parts]
        for part in inside:
            yield from _tensors_in(part, seen)


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
    names = [*slots, *getattr(value, "__dict__", ())]
    return parts + [
        (object.__setattr__, name, getattr(value, name)) for name in names if hasattr(value, name)
    ]


def _slots(kind: type) -> list[str] | None:
    """The slots of a class; None if its instances hold more than items, slots and a __dict__."""
    slots: list[str] = []
    for cls in kind.__mro__:
        if cls in _CONTAINERS or cls is object:
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
    base = next(cls for cls in kind.__mro__ if cls in _CONTAINERS or cls is object)
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
        tensor, ctx.layer, how, *recorded = inputs
        ctx.shapes = [tensor.shape, None, None, *(other.shape for other in recorded)]
        if how == "own":
            ctx.mark_dirty(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        failed = _fail(gradient, ctx.layer)
        needed = zip(ctx.needs_input_grad, ctx.shapes)
        return tuple(failed.expand(shape) if needs else None for needs, shape in needed)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        tangent = next(tangent for tangent in tangents if tangent is not None)
        return _fail(tangent, ctx.layer).expand(ctx.shapes[0])


# Function.apply would bind the arguments to the signature, which takes longer than all the rest.
_apply: Any = super(torch.autograd.Function, _NoBackward).apply


@torch._dynamo.allow_in_graph
def _transformable(tensor: torch.Tensor, layer: str, how: str, *recorded: torch.Tensor) -> Any:
    return _NoBackward.apply(tensor, layer, how, *recorded)


def _fail(gradient: torch.Tensor, layer: str) -> torch.Tensor:
    """Raise, or where a backward is compiled that may never run, let the compiled code raise."""
    if torch._guards.detect_fake_mode(gradient) is not None:
        return _raise(gradient, layer)
    raise _error(layer)


@torch.library.custom_op("kernels_core::no_backward", mutates_args=())
def _raise(gradient: torch.Tensor, layer: str) -> torch.Tensor:
    raise _error(layer)


@_raise.register_fake
def _(gradient: torch.Tensor, layer: str) -> torch.Tensor:
    return gradient.new_empty(())


def _error(layer: str) -> NoBackwardError:
    return NoBackwardError(
        f"Gradients cannot be computed through kernel layer {layer!r}, which has no backward. For "
        f"training, call kernelize(model, mode=Mode.TRAINING) first; for inference, use "
        f"torch.no_grad().",
        layer=layer,
    )
