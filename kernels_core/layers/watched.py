"""Classes for kernels with conditions: a module that ceases to meet them gets its forward back.

Conditions are looked at where torch changes the tensors of a module: in `_apply`, of which `to`,
`half` and `cuda` are made, and in `register_parameter`, which also assigned parameters go through.
The class that the module then gets has the original forward, and looks again at the next change.
So calls cost nothing.
"""

from __future__ import annotations

import functools
from types import FunctionType
from typing import Any

from torch import nn

from kernels_core import environment
from kernels_core.layers.captures import derives_from_kernelized, follow_on_instance
from kernels_core.layers.classes import (
    SUSPENDED,
    kernelized_class,
    original_class,
    swapped_layer,
    variant_of,
)
from kernels_core.layers.report import is_news
from kernels_core.layers.swap import change_class
from kernels_core.layers.validation import Conditions, conditions, required_members, unmet_now
from kernels_core.notices import say

WATCHED, CHECKED = "watched", "checked"  # variants; the other one is SUSPENDED


def class_for(cls: type[nn.Module], layer: type[nn.Module]) -> type[nn.Module]:
    """The class with which modules run a layer's forward, as long as they meet its conditions."""
    required = conditions(layer)
    if not required:
        return kernelized_class(cls, layer)
    return _variant(cls, layer, required, _usual())


def classes_again(
    classes: list[tuple[type[nn.Module], list[nn.Module]]],
) -> list[tuple[type[nn.Module], list[nn.Module]]]:
    """The classes with which modules run again what they ran with these, with what changed since.

    Torch may have made or removed classes around theirs, a lazy module may have become what it is,
    and conditions may not be met any more.
    """
    found: dict[type[nn.Module], list[nn.Module]] = {}
    for before, modules in classes:
        layer = swapped_layer(before)
        required = conditions(layer) if layer else ()
        known: dict[type[nn.Module], type[nn.Module]] = {}
        for module in modules:
            cls = type(module)
            if cls not in known:
                known[cls] = _with_layer(cls, before, layer)
            again = known[cls]
            if layer and required:
                unfit = unmet_now(module, required)
                if unfit:
                    _warn(module, layer, unfit)
                if bool(unfit) != (variant_of(again) == SUSPENDED):
                    again = _variant(again, layer, required, SUSPENDED if unfit else _usual())
            found.setdefault(again, []).append(module)
    return list(found.items())


def _with_layer(
    now: type[nn.Module], before: type[nn.Module], layer: type[nn.Module] | None
) -> type[nn.Module]:
    original = original_class(now)
    if original is original_class(before) or derives_from_kernelized(original):
        return before
    return class_for(original, layer) if layer else original


def _usual() -> str:
    return CHECKED if environment.flag("KERNELS_CHECK_CALLS") else WATCHED


def _variant(
    cls: type[nn.Module], layer: type[nn.Module], required: Conditions, variant: str
) -> type[nn.Module]:
    expected = required_members(layer)

    def reconsider(module: Any) -> None:
        if not all(hasattr(module, member) for member in expected):
            return  # in the middle of being built
        unfit = unmet_now(module, required)
        if unfit and variant != SUSPENDED:
            _change_to(SUSPENDED, module, layer, required)
            _warn(module, layer, unfit)
        elif not unfit and variant == SUSPENDED:
            _change_to(_usual(), module, layer, required)

    def members(original: Any, namespace: dict[str, Any]) -> None:
        def _apply(self: Any, *args: Any, **kwargs: Any) -> Any:
            original._apply(self, *args, **kwargs)
            reconsider(self)
            return self

        def register_parameter(self: Any, name: str, param: Any) -> None:
            original.register_parameter(self, name, param)
            reconsider(self)

        namespace.update(_apply=_apply, register_parameter=register_parameter)
        if variant == SUSPENDED:
            namespace["forward"] = _stand_in(original.forward)
        elif variant == CHECKED:
            namespace["forward"] = _checked(namespace["forward"], original, layer, required)

    return kernelized_class(cls, layer, members, variant)


def _stand_in(forward: Any) -> Any:
    """A copy of a forward, which is told apart from it where a hook captured it."""
    if not isinstance(forward, FunctionType):
        return forward
    copied = FunctionType(
        forward.__code__,
        forward.__globals__,
        forward.__name__,
        forward.__defaults__,
        forward.__closure__,
    )
    copied.__kwdefaults__ = forward.__kwdefaults__
    return functools.update_wrapper(copied, forward)


def _change_to(
    variant: str, module: nn.Module, layer: type[nn.Module], required: Conditions
) -> None:
    change_class(module, _variant(type(module), layer, required, variant))
    follow_on_instance(module, [])


def _warn(module: nn.Module, layer: type[nn.Module], unfit: str) -> None:
    if is_news(module, f"{layer.__name__}: {unfit}"):
        say(
            f"The kernel {layer.__name__} is not used for modules such as a "
            f"{type(module).__qualname__} as long as {unfit}. They run their original forward. "
            f"Call kernelize again to look for another kernel.",
        )


def _checked(forward: Any, original: Any, layer: type[nn.Module], required: Conditions) -> Any:
    """A kernel's forward that looks at the conditions in each call."""

    def unfit_of(module: nn.Module) -> str:
        return unmet_now(module, required)

    @functools.wraps(forward)
    def checked_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        unfit = unmet_now(self, required)
        if not unfit:
            return forward(self, *args, **kwargs)
        _warn(self, layer, unfit)
        return original.forward(self, *args, **kwargs)

    checked_forward.unfit = unfit_of  # type: ignore[attr-defined] # for `running`
    return checked_forward
