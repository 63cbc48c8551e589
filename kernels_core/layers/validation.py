"""Checks of a kernel's layer before its forward replaces that of a module.

The rules are in the section "Layers" of the kernel requirements: a layer has no state, and its
forward can be called like the one that it replaces.
"""

from __future__ import annotations

import inspect
import typing
import weakref
from collections.abc import Callable, Iterable
from types import BuiltinFunctionType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from kernels_core.errors import InvalidLayerError, LayerNotFoundError, SignatureMismatchError
from kernels_core.layers.classes import plain_class
from kernels_core.layers.members import FLAGS, HARMLESS
from kernels_core.repository.builds import Build

# Names that Python itself adds to the namespace of a class.
_IMPLICIT = frozenset(
    {
        "__annotate__",
        "__annotate_func__",
        "__annotations__",
        "__annotations_cache__",
        "__dict__",
        "__doc__",
        "__firstlineno__",
        "__module__",
        "__qualname__",
        "__static_attributes__",
        "__weakref__",
    }
)


def exported_layer(kernel: ModuleType, build: Build, layer_name: str) -> type[nn.Module]:
    """The layer of this name that an imported kernel exports."""
    layers = getattr(kernel, "layers", None)
    if layers is None:
        raise LayerNotFoundError(
            f"{build.repository} (variant {build.variant}) has no layers: its __init__.py must "
            f"export a module named 'layers'.",
            repository=build.repository,
            layer=layer_name,
            rule="exported",
        )
    layer: type[nn.Module] | None = getattr(layers, layer_name, None)
    if layer is None:
        exported = sorted(name for name, value in vars(layers).items() if _is_layer(value))
        raise LayerNotFoundError(
            f"{build.repository} (variant {build.variant}) has no layer {layer_name!r}; "
            f"its layers are: {', '.join(exported) or 'none'}.",
            repository=build.repository,
            layer=layer_name,
            rule="exported",
        )
    return layer


def _is_layer(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)


def check_layer(layer: object, *, repository: str, name: str) -> None:
    """Check that a layer is pure: a subclass of nn.Module with a forward and nothing else.

    InvalidLayerError names the rule that it breaks, and the member that breaks it.
    """

    def invalid(rule: str, text: str) -> InvalidLayerError:
        return InvalidLayerError(
            f"Layer {name!r} of {repository} {text}", repository=repository, layer=name, rule=rule
        )

    if not isinstance(layer, type) or not issubclass(layer, nn.Module):
        raise invalid("module", f"must be a subclass of torch.nn.Module, got {layer!r}.")
    if layer.forward is nn.Module.forward:
        raise invalid("forward", "defines no forward.")
    for base in layer.__mro__[: layer.__mro__.index(nn.Module)]:
        members = set(base.__dict__) - _IMPLICIT - FLAGS - HARMLESS - {"forward"}
        if "__init__" in members:
            raise invalid(
                "constructor",
                "has a constructor, which would never run: a kernel's forward runs on instances "
                "of the layer that it replaces.",
            )
        if members:
            raise invalid(
                "members",
                f"has the member {min(members)!r}: only forward, has_backward and "
                f"can_torch_compile are allowed, since nothing else is used.",
            )
    for flag in FLAGS:
        value = getattr(layer, flag, True)
        if not isinstance(value, bool):
            raise invalid("flags", f"must have a bool as {flag}, got {value!r}.")


def required_members(layer: type[nn.Module]) -> tuple[str, ...]:
    """The members that a layer's forward expects the module to have.

    A layer names them by annotations in its class body, such as `weight: torch.Tensor`.
    """
    return tuple(name for name in _raw_annotations(layer) if name not in FLAGS)


Conditions = tuple[tuple[str, tuple[Any, ...]], ...]


def conditions(layer: type[nn.Module]) -> Conditions:
    """What a layer's forward requires of its members beyond their presence; empty for most layers.

    A layer states it with `typing.Annotated`: `weight: Annotated[torch.Tensor, torch.bfloat16]`
    takes weights of these dtypes only (several are alternatives), and a callable there is called
    with the member and returns whether it is suitable.
    """
    known = _conditions.get(layer)
    if known is None:
        known = _conditions[layer] = _read_conditions(layer)
    return known


_conditions: weakref.WeakKeyDictionary[type[nn.Module], Conditions] = weakref.WeakKeyDictionary()


def _read_conditions(layer: type[nn.Module]) -> Conditions:
    members = required_members(layer)
    raw = [str(annotation) for annotation in _raw_annotations(layer).values()]
    if not any("Annotated" in text for text in raw):
        return ()
    hints = _read_hints(layer, layer)
    found = ((member, getattr(hints[member], "__metadata__", ())) for member in members)
    return tuple((member, required) for member, required in found if required)


def _read_hints(
    holder: Any, layer: type[nn.Module], names: dict[str, Any] | None = None
) -> dict[str, Any]:
    try:
        return typing.get_type_hints(holder, names, include_extras=True)
    except Exception as error:
        raise InvalidLayerError(
            f"The annotations of layer {layer.__name__!r} cannot be read: {error}",
            repository=layer.__module__,
            layer=layer.__name__,
            rule="annotations",
        ) from error


def _raw_annotations(layer: type[nn.Module]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for base in reversed(layer.__mro__[: layer.__mro__.index(nn.Module)]):
        merged.update(inspect.get_annotations(base))
    return merged


def unmet(module: nn.Module, required: Conditions) -> str:
    """Why a module does not meet a layer's conditions, or ""."""
    for member, requirements in required:
        value = getattr(module, member)
        dtypes = [one for one in requirements if isinstance(one, torch.dtype)]
        if dtypes and is_traceable_wrapper_subclass(value) and not _is_gathered(module):
            return f"its {member} is a {type(value).__name__}, and a plain tensor is required"
        if dtypes and getattr(value, "dtype", None) not in dtypes:
            found = getattr(value, "dtype", type(value).__name__)
            return f"its {member} is {found}, and {' or '.join(map(str, dtypes))} is required"
        for one in requirements:
            if callable(one) and not isinstance(one, torch.dtype) and not one(value):
                return f"its {member} does not meet the condition {_name_of(one)}"
    return ""


def _is_gathered(module: nn.Module) -> bool:
    """Whether FSDP2 makes plain tensors of a module's parameters before each of its calls."""
    # FSDP2 keeps what it knows of a parameter in a hook on the module that has the parameter.
    for hook in module._load_state_dict_post_hooks.values():
        for cell in getattr(hook, "__closure__", None) or ():
            state = cell.cell_contents
            if type(state).__name__ == "FSDPParam":
                return not state.is_dtensor
    return False


def requirements(layer: type[nn.Module]) -> tuple[tuple[str, ...], Conditions]:
    """What a layer's forward requires of a module."""
    return required_members(layer), conditions(layer)


def unsuitable(module: nn.Module, needed: tuple[tuple[str, ...], Conditions]) -> str:
    """Why a module does not meet requirements, or ""."""
    members, required = needed
    for member in members:
        if not hasattr(module, member):
            return f"it has no {member}"
    return unmet_now(module, required)


def unmet_now(module: nn.Module, required: Conditions) -> str:
    """As `unmet`, for a module in use: a condition that raises is not met."""
    try:
        return unmet(module, required)
    except Exception as error:
        return f"a condition raised {type(error).__name__}: {error}"


def _name_of(condition: Any) -> str:
    return getattr(condition, "__name__", repr(condition))


def _module_conditions(layer: type[nn.Module]) -> tuple[Callable[[nn.Module], object], ...]:
    forward: Any = layer.forward
    first = next(iter(inspect.signature(forward).parameters), "")
    annotation = forward.__annotations__.get(first)
    if "Annotated" not in str(annotation):
        return ()
    holder = SimpleNamespace(__annotations__={first: annotation})
    hints = _read_hints(holder, layer, forward.__globals__)
    return tuple(one for one in getattr(hints[first], "__metadata__", ()) if callable(one))


# By class and layer: what was found for modules, by their settings.
_found: weakref.WeakKeyDictionary[type, dict[type, dict[Any, str]]] = weakref.WeakKeyDictionary()


def check_of_modules(
    cls: type[nn.Module], layer: type[nn.Module]
) -> Callable[[nn.Module], str] | None:
    """What says why a module does not meet a layer's conditions on the whole of it; None for none.

    They are the callables that annotate the `self` of its forward. Each is called once for modules
    of one class with equal settings: with a copy that has the original forward, the same tensors
    and no hooks, in training mode. A condition may give the copy other members and call it, to
    compare what it computes with what the layer computes.
    """
    required = _module_conditions(layer)
    if not required:
        return None
    known = _found.setdefault(plain_class(cls), {}).setdefault(layer, {})

    def check(module: nn.Module) -> str:
        key = _settings(module)
        if key not in known:
            known[key] = next(filter(None, (_objection(one, module) for one in required)), "")
        return known[key]

    return check


def _objection(condition: Callable[[nn.Module], object], module: nn.Module) -> str:
    try:
        # The device of the context may be "meta", and its dtypes those of autocast.
        with torch.no_grad(), torch.device("cpu"), torch.autocast("cpu", enabled=False):
            if condition(_copy_of(module)):
                return ""
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        return f"its forward cannot be called to check the condition {_name_of(condition)} ({what})"
    return f"its forward does not meet the condition {_name_of(condition)}"


def _copy_of(module: nn.Module) -> nn.Module:
    cls = plain_class(type(module))
    copied = cls.__new__(cls)
    nn.Module.__init__(copied)
    own = {"forward", *copied.__dict__}  # hooks, and the forward of a hook
    copied.__dict__.update({k: v for k, v in module.__dict__.items() if k not in own})
    copied._parameters.update(module._parameters)
    copied._buffers.update(module._buffers)
    for name, child in module._modules.items():
        copied._modules[name] = None if child is None else _copy_of(child)
    return copied


_SETTINGS = frozenset({bool, int, float, str, FunctionType, BuiltinFunctionType})
_OF_EVERY_MODULE = frozenset(nn.Module().__dict__)


def _settings(module: nn.Module) -> tuple[Any, ...]:
    attributes = module.__dict__
    found: list[tuple[str, Any]] = [
        (name, value)
        for name, value in attributes.items()
        if type(value) in _SETTINGS and name not in _OF_EVERY_MODULE
    ]
    found += [(name, None) for name, one in attributes["_parameters"].items() if one is None]
    for name, child in attributes["_modules"].items():
        found.append((name, None if child is None else (type(child), _settings(child))))
    return tuple(found)


def check_members(modules: Iterable[nn.Module], layer: type[nn.Module], repository: str) -> None:
    """Check that modules have every member that a layer's forward expects."""
    expected = required_members(layer)
    for module in modules:
        for member in expected:
            if not hasattr(module, member):
                raise InvalidLayerError(
                    f"Layer {layer.__name__!r} of {repository} expects the member {member!r}, "
                    f"which {type(module).__qualname__} lacks. Its members differ from those of "
                    f"the layer that the kernel was written for.",
                    repository=repository,
                    layer=layer.__name__,
                    rule="expected members",
                )


def check_signature(layer: type[nn.Module], adopting: type[nn.Module], repository: str) -> str:
    """Check that a layer's forward can be called like that of the class that it is used for.

    Both must take the same number of parameters of the same kinds, with a default wherever the
    original has one; keyword-only parameters must have the same names. Returns a note where
    positional parameters have other names, so that calls by keyword fail, or "".
    """
    ours = _parameters(layer, layer.__name__, repository)
    theirs = _parameters(adopting, layer.__name__, repository)
    difference = _difference(ours, theirs)
    if difference:
        raise SignatureMismatchError(
            f"The forward of layer {layer.__name__!r} of {repository} cannot replace that of "
            f"{adopting.__qualname__}: {difference}. Kernel: forward{_text(ours)}; "
            f"original: forward{_text(theirs)}.",
            repository=repository,
            layer=layer.__name__,
            rule="signature",
        )
    renamed = [
        f"{theirs_one.name} is named {ours_one.name}"
        for ours_one, theirs_one in zip(ours[1:], theirs[1:], strict=True)
        if ours_one.name != theirs_one.name and ours_one.kind is ours_one.POSITIONAL_OR_KEYWORD
    ]
    if not renamed:
        return ""
    return f"calls by keyword fail: in the kernel {', '.join(renamed)}"


# Reading a signature takes longer than everything else that is done for a group of modules. The
# keys are functions, since a class may get another forward.
_known_parameters: weakref.WeakKeyDictionary[Any, list[inspect.Parameter]] = (
    weakref.WeakKeyDictionary()
)


def _parameters(cls: Any, layer: str, repository: str) -> list[inspect.Parameter]:
    """The parameters of a class's forward, without annotations."""
    forward = cls.forward
    known = _known_parameters.get(forward) if inspect.isfunction(forward) else None
    if known is not None:
        return known
    try:
        signature = inspect.signature(forward)
    except (TypeError, ValueError) as error:
        raise SignatureMismatchError(
            f"The signature of {cls.__qualname__}.forward cannot be read, so it cannot be "
            f"compared: {error}",
            repository=repository,
            layer=layer,
            rule="signature",
        ) from error
    # An annotation may refer to the function, which would then never be freed.
    read = [one.replace(annotation=one.empty) for one in signature.parameters.values()]
    if inspect.isfunction(forward):
        _known_parameters[forward] = read
    return read


def _text(parameters: list[inspect.Parameter]) -> str:
    return str(inspect.Signature(parameters))


def _difference(ours: list[inspect.Parameter], theirs: list[inspect.Parameter]) -> str:
    if len(ours) != len(theirs):
        count = len(ours) - 1
        plural = "" if count == 1 else "s"
        return f"it takes {count} parameter{plural} instead of {len(theirs) - 1}"
    # The first is the module itself. Keyword-only parameters have no order.
    for our, their in zip(_ordered(ours[1:]), _ordered(theirs[1:]), strict=True):
        if our.kind is not their.kind:
            return (
                f"parameter {our.name!r} is {our.kind.description} instead of "
                f"{their.kind.description}"
            )
        if our.kind is our.KEYWORD_ONLY and our.name != their.name:
            return f"keyword-only parameter {their.name!r} is missing"
        if their.default is not their.empty and our.default is our.empty:
            return f"parameter {our.name!r} has no default, where the original has one"
    return ""


def _ordered(parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    return sorted(
        parameters,
        key=lambda one: (one.kind, one.name if one.kind is one.KEYWORD_ONLY else ""),
    )
