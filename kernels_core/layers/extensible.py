"""Marking layers as extensible.

A class is marked by its attributes `kernel_layer_name` and `kernel_condition`; the functions that a
module uses are in the instance's `_kernel_funcs`. Hugging Face `kernels` uses the same names, so
layers that it marked are extensible here too, and the other way round.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import sys
from collections.abc import Callable
from types import FunctionType
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

        def construct_and_attach(self: Any, *args: Any, **kwargs: Any) -> None:
            construct(self, *args, **kwargs)
            attached = self.__dict__.setdefault("_kernel_funcs", {})
            for function in functions:
                name = getattr(function, "__name__", function.kernel_layer_name)
                if attached.get(name, function) is not function:
                    name = f"{function.__module__}.{function.__qualname__}"
                attached[name] = function

        attaching = functools.update_wrapper(_standalone(construct_and_attach, cls), construct)
        cls.__init__ = attaching  # type: ignore[method-assign] # that is the point
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
    # Before torch is imported, nothing is a subclass.
    base = getattr(sys.modules.get("torch.nn"), "Module", None)
    if base is None or not isinstance(cls, type) or not issubclass(cls, base):
        raise TypeError(f"Expected a subclass of torch.nn.Module or a function, got {cls!r}.")


def _mark(cls: Any, layer_name: str, condition: Condition | None) -> None:
    cls.kernel_layer_name = layer_name
    # static: access through an instance must not bind the module as a second argument
    cls.kernel_condition = staticmethod(condition) if condition is not None else None


def _standalone(function: Callable[..., Any], owner: Any) -> Any:
    """A function that can be sent by value, like its owner, to where this package is not."""
    scope = {"__name__": owner.__module__, "__builtins__": builtins}
    code, closure = function.__code__, function.__closure__
    return FunctionType(code, scope, function.__name__, function.__defaults__, closure)


def _function_layer(
    function: Callable[..., Any], layer_name: str, condition: Condition | None
) -> nn.Module:
    from kernels_core.host import import_torch

    import_torch()  # says what is wrong with one that cannot be imported
    from torch import nn

    # All that picklers send by value with such a function is made below, so it is standalone. What
    # is called while one loads has no closure, whose cells dill fills at the end.

    class FunctionLayer(nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.__wrapped__(*args, **kwargs)  # type: ignore[operator] # see update_wrapper

        def __reduce_ex__(self, protocol: Any) -> Any:
            # By name, like the function, which may not be extensible where this is loaded.
            # cloudpickle and dill send functions of a script or of a function by value, which
            # protocols before 4 cannot express.
            if "_itself" not in self.__dict__:  # it was sent by value
                return object.__reduce_ex__(self, protocol)
            name = self.__dict__["__qualname__"]
            is_local = self.__module__ == "__main__" or "<locals>" in name
            if protocol < 4 or not is_local:
                return name
            return self._itself, (), self._function

        def __setstate__(self, state: Any) -> None:
            if isinstance(state, dict):
                self.__dict__ = state
            elif "__wrapped__" not in self.__dict__:
                from functools import update_wrapper

                update_wrapper(self, state())

        def __copy__(self) -> Any:
            return self

        def __deepcopy__(self, memo: Any) -> Any:
            return self

        def __repr__(self) -> str:
            return f"<extensible function {self.__module__}.{self.__qualname__}>"

    for name, method in list(vars(FunctionLayer).items()):
        if inspect.isfunction(method):
            setattr(FunctionLayer, name, _standalone(method, function))

    # Without the function, which may refer back to its layer.
    def itself(
        cls: type[nn.Module] = FunctionLayer,
        module: str = function.__module__,
        name: str = function.__qualname__,
    ) -> Any:
        import sys

        found: Any = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        return found if isinstance(found, cls) else cls()

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
    for name, part in (("_itself", itself), ("_function", lambda function=function: function)):
        found = layer.__dict__[name] = _standalone(part, function)
        found.__qualname__ = f"{function.__qualname__}.{name}"  # where pickle finds it
    return layer
