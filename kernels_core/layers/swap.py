"""Replacing the forward of modules by giving them another class: all of them, or none.

Nothing is stored on a module, so there is no reference cycle, copies compute with their own
weights, `state_dict` and hooks stay as they were, and undoing it is assigning the former class.

A `forward` attribute of the instance hides the one of the class. Most were set by other packages,
which wrapped the module, and are left alone. Two kinds are the class's own forward, bound to the
module, and move with the class: one that a wrapper left behind when it was removed, and the one
that accelerate's hook keeps in `_old_forward` and calls.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import MethodType
from typing import TYPE_CHECKING, Any

from kernels_core.errors import ApplyError, StalePlanError
from kernels_core.layers.children import each_module
from kernels_core.layers.classes import swapped_layer
from kernels_core.layers.report import KernelizeReport, current_report, set_report
from kernels_core.notices import say

if TYPE_CHECKING:
    from torch import nn

    from kernels_core.layers.captures import Undo

    # A group of modules: the class that they have, the class that they get, the modules.
    Change = tuple[type[nn.Module], type[nn.Module], list[nn.Module]]

# How many names a warning lists.
_SHOWN = 5


def has_foreign_forward(module: nn.Module) -> bool:
    """Whether another package's forward on the instance hides the one of its class.

    One that captured a kernel's forward does not: what it captured follows the class.
    """
    attributes = module.__dict__
    if "forward" not in attributes or _is_own(module, attributes["forward"]):
        return False
    hooked = "_hf_hook" in attributes and "_old_forward" in attributes
    if hooked and _is_own(module, attributes["_old_forward"]):
        return False
    # Imported here, so that `kernelize` can be imported without torch.
    from kernels_core.layers.captures import follows

    return not follows(module)


def _is_own(module: nn.Module, forward: object) -> bool:
    return (
        isinstance(forward, MethodType)
        and forward.__self__ is module
        and forward.__func__ is type(module).forward
    )


def functions_of(model: nn.Module) -> list[nn.Module]:
    """The extensible functions that a model's modules use."""
    found: dict[nn.Module, None] = {}
    for module in each_module(model):
        found.update(dict.fromkeys(module.__dict__.get("_kernel_funcs", {}).values()))
    return list(found)


def kernelized_modules(model: nn.Module) -> dict[type[nn.Module], list[nn.Module]]:
    """The modules of a model whose forward was replaced, and its functions, by their class."""
    by_class: dict[type[nn.Module], list[nn.Module]] = {}
    for module in (*each_module(model), *functions_of(model)):
        if swapped_layer(type(module)) is not None:
            by_class.setdefault(type(module), []).append(module)
    return by_class


def replace(model: nn.Module, changes: list[Change], made: KernelizeReport | None) -> None:
    """Change the classes of modules and the report of their model, or leave both as they were.

    StalePlanError where a module has another class by now, ApplyError where Python refuses one.
    """
    before = current_report(model)
    undo: list[Undo] = []
    _check_current(changes)
    try:
        _assign(changes)
        set_report(model, made)
        if made is not None:
            _follow(model, [module for _, _, modules in changes for module in modules], undo)
            # Imported here, so that declaring layers does not need it.
            import logging

            logger = logging.getLogger("kernels_core")
            logger.info("kernelized %s:\n%s", type(model).__qualname__, made)
        else:
            _follow(model, [*each_module(model), *functions_of(model)], undo)
            _warn_of_derived(model)
    except BaseException:  # Ctrl-C, or a handler of log records that raises
        _put_back((cls, modules) for cls, _, modules in changes)
        for one in reversed(undo):
            one()
        set_report(model, before)
        raise


def restore(
    model: nn.Module,
    classes: list[tuple[type[nn.Module], list[nn.Module]]],
    before: KernelizeReport | None,
) -> None:
    """Give modules these classes and the model the report that it had, whatever they have now."""
    _put_back(classes)
    set_report(model, before)
    _follow(model, [module for _, modules in classes for module in modules], [])


def _warn_of_derived(model: nn.Module) -> None:
    """Warn of modules with a class that somebody derived from a kernelized one."""
    from kernels_core.layers.captures import derives_from_kernelized

    for cls in dict.fromkeys(map(type, each_module(model))):
        if derives_from_kernelized(cls):
            say(
                f"{cls.__qualname__} was made from a kernelized class and cannot be restored: its "
                f"base class runs a kernel. Derive it from the class as it was defined."
            )


def _follow(model: nn.Module, modules: list[nn.Module], undo: list[Undo]) -> None:
    """Let captured forwards run what their modules run now, and warn of those that cannot."""
    if not modules:
        return
    # Imported here, so that `kernelize` can be imported without torch.
    from kernels_core.layers.captures import follow_everywhere

    left = follow_everywhere(modules, undo)
    if not left:
        return
    names = {id(module): name or type(module).__name__ for name, module in model.named_modules()}
    listed = [names.get(id(module), type(module).__name__) for module in left]
    shown = ", ".join(listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "")
    say(
        f"{len(left)} captured forward{'s' if len(left) > 1 else ''} of {type(model).__qualname__} "
        f"still run a kernel that their modules do not run any more: {shown}. Something holds "
        f"module.forward from before and could not be changed. Remove it, for example a hook, or "
        f"read module.forward again."
    )


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
                change_class(module, after)
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
        _put_back([(change[0], change[2])])
    return None


def _put_back(classes: Iterable[tuple[type[nn.Module], list[nn.Module]]]) -> None:
    for before, modules in classes:
        for module in modules:
            if type(module) is not before:
                change_class(module, before)


def change_class(module: nn.Module, cls: type[nn.Module]) -> None:
    """Change a module's class, and with it the forward of its class where it is on the instance."""
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
