"""Walking a model: which modules are extensible, of which class, on which device.

Per module this is a lookup or two; everything else is done once per group of modules that share
class and device.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from kernels_core.errors import MissingDeviceError
from kernels_core.layers.children import UsualClasses, children_of, each_module
from kernels_core.layers.classes import original_class
from kernels_core.layers.copying import reference_to
from kernels_core.layers.extensible import Condition, mark_of
from kernels_core.layers.swap import has_foreign_forward
from kernels_core.plugins.backend import describe

FOREIGN_FORWARD = (
    "another package set a forward on the instance itself (a hook or a wrapper), "
    "which a kernel would bypass"
)
CONDITION = "its condition is False"


class Group:
    """Modules that get the same decision."""

    __slots__ = (
        "current",
        "device",
        "error",
        "function",
        "kept",
        "layer_name",
        "modules",
        "original",
        "reference",
    )

    def __init__(
        self,
        layer_name: str,
        current: type[nn.Module],
        device: torch.device,
        *,
        kept: str = "",
        function: str = "",
    ) -> None:
        self.layer_name = layer_name
        self.original = original_class(current)
        self.current = current
        self.device = device
        # Why they keep their forward whatever the mapping says, or "".
        self.kept = kept
        # What their condition raised.
        self.error: Exception | None = None
        # The name of the extensible function whose module is the only one in the group, or "".
        self.function = function
        # Where that function can be found, if it does not know itself; see `reference_to`.
        self.reference = ""
        self.modules: list[nn.Module] = []

    def part(self, modules: list[nn.Module]) -> Group:
        """A group of some of the modules, for a decision of its own."""
        part = Group(
            self.layer_name, self.current, self.device, kept=self.kept, function=self.function
        )
        part.modules = modules
        return part


class _Class:
    """What the walk knows of an extensible class."""

    __slots__ = (
        "cls",
        "condition",
        "device",
        "errors",
        "groups",
        "is_plain",
        "layer_name",
        "members",
        "overridden",
    )

    def __init__(self, cls: type[nn.Module], layer_name: str, overriding: type | None) -> None:
        self.cls = cls
        self.layer_name = layer_name
        # Why none of its instances may get a kernel, or "".
        self.overridden = (
            f"{overriding.__qualname__} has a forward of its own, which the mark on its base "
            f"class does not cover"
            if overriding
            else ""
        )
        self.condition: Condition | None = getattr(cls, "kernel_condition", None)
        # Whether all instances without a forward of their own may get a kernel.
        self.is_plain = not self.overridden and self.condition is None
        # Device and modules of the group that the last instance joined.
        self.device: torch.device | None = None
        self.members: list[nn.Module] = []
        # By reason to keep the forward, and device.
        self.groups: dict[tuple[str, torch.device], Group] = {}
        # What the condition raised, by the reason that came of it.
        self.errors: dict[str, Exception] = {}

    def kept(self, module: nn.Module) -> str:
        """Why a module keeps its forward whatever the mapping says, or ""."""
        if self.overridden:
            return self.overridden
        try:
            if self.condition is not None and not self.condition(module):
                return CONDITION
        except Exception as error:
            reason = _raised(error)
            self.errors[reason] = error
            return reason
        return FOREIGN_FORWARD if has_foreign_forward(module) else ""

    def add(self, module: nn.Module, kept: str, device: torch.device) -> None:
        """Put a module into its group."""
        group = self.groups.get((kept, device))
        if group is None:
            group = self.groups[kept, device] = Group(self.layer_name, self.cls, device, kept=kept)
            group.error = self.errors.get(kept)
        group.modules.append(module)
        # Of two modules on the meta device, one may be offloaded: each of them is checked.
        if not kept and device.type != "meta":
            self.device, self.members = device, group.modules


def _raised(error: Exception) -> str:
    return f"its condition raised {describe(error)}"


class _Walk:
    """One walk over a model: its extensible modules in groups, and the owners of functions."""

    def __init__(self, model: nn.Module, given: torch.device | None) -> None:
        self.model = model
        self.given = given
        # None: the class is not extensible.
        self.classes: dict[type[nn.Module], _Class | None] = {}
        self.usual = UsualClasses()
        self.unusual: set[type[nn.Module]] = set()
        self.owners: list[nn.Module] = []
        self._parents: dict[int, nn.Module] = {}
        self._found: dict[int, torch.device | None] = {}
        self._walk()

    def _walk(self) -> None:
        # One long function, because a function call per module would slow the walk down.
        given = self.given
        classes, unusual = self.classes, self.unusual
        # Modules are told apart as torch does in Module.modules(): by their hash and equality.
        # None is a child that is not set, to be skipped like a module that was seen before.
        seen: set[Any] = {None}
        # Depth first and in order, which is how most models were made: reading memory from one
        # end to the other takes half the time of jumping back and forth in it.
        pending: list[Iterator[Any]] = [iter((self.model,))]
        while pending:
            for module in pending[-1]:
                if module in seen:
                    continue
                seen.add(module)
                attributes = module.__dict__
                if "_kernel_funcs" in attributes:
                    self.owners.append(module)
                try:
                    known = classes[type(module)]
                except KeyError:
                    known = self._first_of(type(module))
                if known is not None:
                    is_plain = known.is_plain and "forward" not in attributes
                    kept = "" if is_plain else known.kept(module)
                    device = given
                    if device is None:
                        try:
                            parameters = attributes["_parameters"]
                        except KeyError:  # it has them through `__getattr__`
                            parameters = module._parameters
                        for parameter in parameters.values():
                            if parameter is not None:
                                device = parameter.device
                                break
                        else:
                            device = self.device_of(module)
                    # Most modules may get a kernel, and are where the last of their class is.
                    if device == known.device and not kept:
                        known.members.append(module)
                    else:
                        known.add(module, kept, given or self.device_of(module))
                if unusual and type(module) in unusual:
                    pending.append(iter(children_of(module, self.usual)))
                    break
                try:
                    members = attributes["_modules"]
                except KeyError:  # it has them through `__getattr__`
                    members = module._modules
                if members:
                    pending.append(iter(members.values()))
                    break  # these first, then the rest of this one
            else:
                pending.pop()

    def _first_of(self, cls: type[nn.Module]) -> _Class | None:
        layer_name, overriding = mark_of(original_class(cls))
        known = None if layer_name is None else _Class(cls, layer_name, overriding)
        self.classes[cls] = known
        if not self.usual[cls]:
            self.unusual.add(cls)
        return known

    def device_of(self, module: nn.Module) -> torch.device:
        """A module's device: that of tensors in it or below it, else of an ancestor's.

        For a module whose tensors are offloaded it is the one that its hook computes on.
        """
        device = _first_device(module, self.usual)
        ancestor = self._parent(module) if device is None else None
        while device is None and ancestor is not None:
            key = id(ancestor)
            if key not in self._found:
                self._found[key] = _first_device(ancestor, self.usual)
            device = self._found[key]
            ancestor = self._parent(ancestor)
        if device is None:
            raise MissingDeviceError(
                f"Cannot tell the device of {type(self.model).__qualname__}: it has no parameters "
                f"or buffers. Pass device=, as in kernelize(model, mode=..., device='cpu')."
            )
        if device.type == "meta" and "accelerate.hooks" in sys.modules:
            return self._execution_device(module) or device
        return device

    def _execution_device(self, module: nn.Module) -> torch.device | None:
        """The device on which accelerate's hook on a module, or below or above it, computes."""
        for below in each_module(module, self.usual):
            device = _hook_device(below)
            if device is not None:
                return device
        ancestor = self._parent(module)
        while ancestor is not None:
            device = _hook_device(ancestor)
            if device is not None:
                return device
            ancestor = self._parent(ancestor)
        return None

    def _parent(self, module: nn.Module) -> nn.Module | None:
        # Made when it is needed, since few modules have no tensors in or below them. The way up
        # ends at the model, even if a module below refers back to it.
        parents = self._parents
        if not parents:
            pending = [self.model]
            while pending:
                parent = pending.pop()
                for child in children_of(parent, self.usual):
                    if child not in (None, self.model) and id(child) not in parents:
                        parents[id(child)] = parent
                        pending.append(child)
        return parents.get(id(module))

    def functions(self) -> dict[nn.Module, tuple[str, list[nn.Module]]]:
        """The extensible functions in the model, each with its name and the modules that use it."""
        found: dict[nn.Module, tuple[str, list[nn.Module]]] = {}
        for owner in self.owners:
            for name, function in owner.__dict__["_kernel_funcs"].items():
                found.setdefault(function, (name, []))[1].append(owner)
        return found


def _first_device(
    module: nn.Module, usual: UsualClasses, seen: set[int] | None = None
) -> torch.device | None:
    """The device of the first parameter or buffer in a module or below it, or None."""
    for parameter in module._parameters.values():
        if parameter is not None:
            return parameter.device
    for buffer in module._buffers.values():
        if buffer is not None:
            return buffer.device
    if seen is None:
        seen = set()  # a module may contain itself
    seen.add(id(module))
    for child in module._modules.values() if usual[type(module)] else children_of(module, usual):
        if child is not None and id(child) not in seen:
            device = _first_device(child, usual, seen)
            if device is not None:
                return device
    return None


def _hook_device(module: nn.Module) -> torch.device | None:
    hook = module.__dict__.get("_hf_hook")
    for one in (hook, *getattr(hook, "hooks", ())):
        device = getattr(one, "execution_device", None)
        if device is not None:
            # accelerate also takes a string, or the index of a device of the accelerator
            return torch.device(device)
    return None


def scan(model: nn.Module, device: torch.device | None) -> list[Group]:
    """Group the extensible modules of a model by decision; functions come last.

    A device counts for all of them; with None, each module's own device does.
    """
    walk = _Walk(model, device)
    if device is None:
        walk.device_of(model)  # a model without tensors is an error, extensible layers or none
    groups = [
        group
        for known in walk.classes.values()
        if known is not None
        for group in known.groups.values()
    ]
    for function, (name, owners) in walk.functions().items():
        groups.append(_function_group(function, name, owners, walk))
    return groups


def _function_group(function: nn.Module, name: str, owners: list[nn.Module], walk: _Walk) -> Group:
    cls = type(function)
    layer_name, _ = mark_of(original_class(cls))
    assert layer_name is not None, "use_kernelized_func accepts only functions with a name"
    condition = getattr(cls, "kernel_condition", None)
    error = None
    try:
        asking = [owner for owner in owners if condition is None or condition(owner)]
        kept = "" if asking else CONDITION
    except Exception as raised:
        asking, kept, error = [], _raised(raised), raised
    device = walk.given or walk.device_of((asking or owners)[0])
    group = Group(layer_name, cls, device, kept=kept, function=name)
    group.error = error
    group.reference = reference_to(function, group.original, owners)
    group.modules.append(function)
    return group
