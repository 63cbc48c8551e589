"""Replacing the forward of modules by giving them another class: all of them, or none.

Nothing is stored on a module, so there is no reference cycle, copies compute with their own
weights, `state_dict` and hooks stay as they were, and undoing it is assigning the former class.

A `forward` attribute of the instance hides the one of the class. Most were set by other packages,
which wrapped the module, and are left alone. Two kinds are the class's own forward, bound to the
module, and move with the class: one that a wrapper left behind when it was removed, and the one
that accelerate's hook keeps in `_old_forward` and calls.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from types import MethodType
from typing import TYPE_CHECKING, Any

from kernels_core.errors import ApplyError, StalePlanError
from kernels_core.layers.children import each_module
from kernels_core.layers.classes import swapped_layer
from kernels_core.layers.report import KernelizeReport, current_report, set_report

if TYPE_CHECKING:
    from torch import nn

    # A group of modules: the class that they have, the class that they get, the modules.
    Change = tuple[type[nn.Module], type[nn.Module], list[nn.Module]]

logger = logging.getLogger("kernels_core")


def has_foreign_forward(module: nn.Module) -> bool:
    """Whether another package's forward on the instance hides the one of its class."""
    attributes = module.__dict__
    if "forward" not in attributes or _is_own(module, attributes["forward"]):
        return False
    hooked = "_hf_hook" in attributes and "_old_forward" in attributes
    return not (hooked and _is_own(module, attributes["_old_forward"]))


def _is_own(module: nn.Module, forward: object) -> bool:
    return (
        isinstance(forward, MethodType)
        and forward.__self__ is module
        and forward.__func__ is type(module).forward
    )


def kernelized_modules(model: nn.Module) -> dict[type[nn.Module], list[nn.Module]]:
    """The modules of a model whose forward was replaced, and its functions, by their class."""
    by_class: dict[type[nn.Module], list[nn.Module]] = {}
    functions: dict[nn.Module, None] = {}
    for module in each_module(model):
        if swapped_layer(type(module)) is not None:
            by_class.setdefault(type(module), []).append(module)
        functions.update(dict.fromkeys(module.__dict__.get("_kernel_funcs", {}).values()))
    for function in functions:
        if swapped_layer(type(function)) is not None:
            by_class.setdefault(type(function), []).append(function)
    return by_class


def replace(model: nn.Module, changes: list[Change], made: KernelizeReport | None) -> None:
    """Change the classes of modules and the report of their model, or leave both as they were.

    StalePlanError where a module has another class by now, ApplyError where Python refuses one.
    """
    before = current_report(model)
    _check_current(changes)
    try:
        _assign(changes)
        set_report(model, made)
        if made is not None:
            logger.info("kernelized %s:\n%s", type(model).__qualname__, made)
    except BaseException:  # Ctrl-C, or a handler of log records that raises
        put_back(changes)
        set_report(model, before)
        raise


def _check_current(changes: Iterable[Change]) -> None:
    for before, _, modules in changes:
        if any(type(module) is not before for module in modules):
            raise StalePlanError(
                f"The class of a {before.__qualname__} was changed after the plan was made. "
                f"Call plan again.",
                layer=before.__name__,
            )


def _assign(changes: Iterable[Change]) -> None:
    for before, after, modules in changes:
        try:
            for module in modules:
                _assign_one(module, after)
        except TypeError as error:
            raise ApplyError(
                f"The class of a {before.__qualname__} cannot be changed: {error}",
                layer=before.__name__,
            ) from error


def refused(change: Change) -> Exception | None:
    """What changing the class of some modules raises; they have their own class afterwards."""
    try:
        _assign([change])
    except Exception as error:
        return error
    finally:
        put_back([change])
    return None


def put_back(changes: Iterable[Change]) -> None:
    """Give modules the class that they had before some changes, whatever they have now."""
    for before, _, modules in changes:
        for module in modules:
            if type(module) is not before:
                _assign_one(module, before)


def _assign_one(module: nn.Module, cls: type[nn.Module]) -> None:
    attributes: dict[str, Any] = module.__dict__
    bound = [
        name
        for name in ("forward", "_old_forward")
        if name in attributes and _is_own(module, attributes[name])
    ]
    module.__class__ = cls
    for name in bound:
        attributes[name] = MethodType(cls.forward, module)
    if "torch._dynamo" in sys.modules:
        # On Python 3.12 and newer, torch.compile does not look at a module again, not even at its
        # class, unless one of its dicts was written to. An equal set is such a write.
        attributes["_non_persistent_buffers_set"] = set(attributes["_non_persistent_buffers_set"])
