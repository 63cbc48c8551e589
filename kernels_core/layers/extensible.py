"""Marking layers as extensible.

A class is marked by its attributes `kernel_layer_name` and `kernel_condition`; the functions that a
module uses are in the instance's `_kernel_funcs`. Hugging Face `kernels` uses the same names, so
layers that it marked are extensible here too, and the other way round.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from kernels_core.errors import NotExtensibleError

if TYPE_CHECKING:
    from torch import nn

_T = TypeVar("_T")

Condition = Callable[[Any], bool]


def replace_kernel_forward_from_hub(
    cls: type[nn.Module], layer_name: str, condition: Condition | None = None
) -> None:
    """Make a class extensible that cannot be decorated, for example one of another package.

    Use this as a last resort: the members of such a class and the signature of its forward may
    change with any release. Its behaviour does not change until `kernelize`.

    Args:
        cls: the class.
        layer_name: name under which mappings refer to it.
        condition: called by `kernelize` with each instance; where it returns False, the instance
            keeps its forward.

    Raises:
        TypeError: an argument has the wrong type.

    Example:
        >>> from torch import nn
        >>> from kernels_core import replace_kernel_forward_from_hub
        >>> class Norm(nn.LayerNorm):
        ...     pass
        >>> replace_kernel_forward_from_hub(Norm, "LayerNorm")
        >>> Norm.kernel_layer_name
        'LayerNorm'
    """
    _check_mark(layer_name, condition)
    _check_class(cls)
    _mark(cls, layer_name, condition)


def use_kernel_forward_from_hub(
    layer_name: str, condition: Condition | None = None
) -> Callable[[_T], _T]:
    """Decorate a layer class, or a function, to make it extensible.

    The behaviour of the class does not change; `kernelize` can find it under this name. A function
    becomes a callable `nn.Module` that runs it. That module is one object for the whole process:
    kernelizing any module that uses it changes it for all of them.

    Args:
        layer_name: name under which mappings refer to it.
        condition: called by `kernelize` with each instance, or for a function with each module that
            uses it; where it returns False, the forward stays as it is.

    Raises:
        TypeError: an argument has the wrong type, or the decorated object is neither a subclass of
            nn.Module nor a function.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from kernels_core import use_kernel_forward_from_hub
        >>> @use_kernel_forward_from_hub("SiluAndMul")
        ... class SiluAndMul(nn.Module):
        ...     def forward(self, x: torch.Tensor) -> torch.Tensor:
        ...         gate, up = x.chunk(2, dim=-1)
        ...         return nn.functional.silu(gate) * up
    """
    _check_mark(layer_name, condition)

    def decorate(target: Any) -> Any:
        if inspect.isfunction(target):
            return _function_layer(target, layer_name, condition)
        _check_class(target)
        _mark(target, layer_name, condition)
        return target

    return decorate


def use_kernelized_func(*functions: Any) -> Callable[[type[_T]], type[_T]]:
    """Decorate a module class to declare which extensible functions its forward uses.

    They become visible to `kernelize` without being submodules: they appear neither in
    `named_modules` nor in the state dict.

    Args:
        functions: functions decorated with `use_kernel_forward_from_hub`.

    Raises:
        NotExtensibleError: a function is not decorated; a TypeError and a ValueError.
        TypeError: the decorated object is not a subclass of nn.Module.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from kernels_core import use_kernel_forward_from_hub, use_kernelized_func
        >>> @use_kernel_forward_from_hub("double")
        ... def double(x: torch.Tensor) -> torch.Tensor:
        ...     return x + x
        >>> @use_kernelized_func(double)
        ... class Doubling(nn.Module):
        ...     def forward(self, x: torch.Tensor) -> torch.Tensor:
        ...         return double(x)
    """
    for function in functions:
        if not hasattr(function, "kernel_layer_name") or isinstance(function, type):
            raise NotExtensibleError(
                f"{function!r} is not an extensible function: decorate it with "
                f"@use_kernel_forward_from_hub(layer_name) first."
            )

    def decorate(cls: type[_T]) -> type[_T]:
        _check_class(cls)
        construct = cls.__init__

        @functools.wraps(construct)
        def construct_and_attach(self: Any, *args: Any, **kwargs: Any) -> None:
            construct(self, *args, **kwargs)
            attached = self.__dict__.setdefault("_kernel_funcs", {})
            for function in functions:
                attached[_key(function, attached)] = function

        cls.__init__ = construct_and_attach  # type: ignore[method-assign] # that is the point
        return cls

    return decorate


def mark_of(cls: type) -> tuple[str | None, type | None]:
    """The name under which a class is extensible, and the subclass that overrides its forward.

    A subclass with a `forward` of its own inherits the mark, but not the forward that was marked.
    """
    overriding = None
    for base in cls.__mro__:
        if "kernel_layer_name" in base.__dict__:
            return base.__dict__["kernel_layer_name"], overriding
        if overriding is None and "forward" in base.__dict__:
            overriding = base
    return None, None


def _check_mark(layer_name: object, condition: object) -> None:
    if not isinstance(layer_name, str) or not layer_name:
        raise TypeError(
            f"The layer name must be a non-empty string, as in "
            f"@use_kernel_forward_from_hub('RMSNorm'), got {layer_name!r}."
        )
    if condition is not None and not callable(condition):
        raise TypeError(f"condition must be callable or None, got {condition!r}.")


def _check_class(cls: object) -> None:
    from torch import nn

    if not isinstance(cls, type) or not issubclass(cls, nn.Module):
        raise TypeError(f"Expected a subclass of torch.nn.Module or a function, got {cls!r}.")


def _mark(cls: Any, layer_name: str, condition: Condition | None) -> None:
    cls.kernel_layer_name = layer_name
    # static: access through an instance must not bind the module as a second argument
    cls.kernel_condition = staticmethod(condition) if condition is not None else None


def _key(function: Any, taken: dict[str, Any]) -> str:
    name: str = getattr(function, "__name__", function.kernel_layer_name)
    if taken.get(name, function) is function:
        return name
    return f"{function.__module__}.{function.__qualname__}"


def _function_layer(
    function: Callable[..., Any], layer_name: str, condition: Condition | None
) -> nn.Module:
    from torch import nn

    class FunctionLayer(nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        def __reduce_ex__(self, protocol: Any) -> str:
            # Pickled, and copied, by reference like the function that it runs.
            return function.__qualname__

        def __repr__(self) -> str:
            return f"<extensible function {function.__module__}.{function.__qualname__}>"

    signature = inspect.signature(function)
    own = inspect.Parameter("_self", inspect.Parameter.POSITIONAL_ONLY)
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].kind is not inspect.Parameter.POSITIONAL_ONLY:
        own = own.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
    FunctionLayer.forward.__signature__ = (  # type: ignore[attr-defined] # read by inspect
        signature.replace(parameters=[own, *parameters])
    )
    FunctionLayer.__name__ = function.__name__
    FunctionLayer.__qualname__ = function.__qualname__
    FunctionLayer.__module__ = function.__module__
    _mark(FunctionLayer, layer_name, condition)
    layer = FunctionLayer()
    functools.update_wrapper(layer, function)
    return layer
