"""Walking a model: which modules are extensible, of which class, on which device.

Per module this is a lookup or two; everything else is done once per group of modules that share
class and device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from kernels_core.errors import MissingDeviceError
from kernels_core.layers.extensible import mark_of
from kernels_core.layers.swap import original_class

if TYPE_CHECKING:
    import torch
    from torch import nn

FOREIGN_FORWARD = (
    "another package set a forward on the instance itself (a hook or a wrapper), "
    "which a kernel would bypass"
)
CONDITION = "its condition is False"

_UNSEEN: list[Any] = []  # stands for a class that was not met yet


class Group:
    """Modules that get the same decision.

    Attributes:
        layer_name: name under which their layer is extensible.
        original: their class, as it was before any kernelizing.
        current: their class now.
        device: the device that they live on.
        kept: why they keep their forward whatever the mapping says; "" when they may get a kernel.
        function: whether the one module in it stands for an extensible function.
        modules: the modules, in the order of the walk.
    """

    __slots__ = ("current", "device", "function", "kept", "layer_name", "modules", "original")

    def __init__(
        self,
        layer_name: str,
        current: type[nn.Module],
        device: torch.device,
        *,
        kept: str = "",
        function: bool = False,
    ) -> None:
        self.layer_name = layer_name
        self.original = original_class(current)
        self.current = current
        self.device = device
        self.kept = kept
        self.function = function
        self.modules: list[nn.Module] = []


class _Tree:
    """The extensible modules of a model by class, each once, and the modules that use functions."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        # None: the class is not extensible.
        self.by_class: dict[type[nn.Module], list[nn.Module] | None] = {}
        self.owners: list[nn.Module] = []
        self._parents: dict[int, nn.Module] = {}
        self._found: dict[int, torch.device | None] = {}
        self._walk()

    def _walk(self) -> None:
        by_class = self.by_class
        seen: set[int] = set()
        pending: list[Iterable[nn.Module | None]] = [(self.model,)]
        while pending:
            for module in pending.pop():
                key = id(module)
                if key in seen or module is None:
                    continue
                seen.add(key)
                attributes = module.__dict__
                children = attributes["_modules"]
                if children:
                    pending.append(children.values())
                if "_kernel_funcs" in attributes:
                    self.owners.append(module)
                members = by_class.get(type(module), _UNSEEN)
                if members is _UNSEEN:
                    members = self._first_of_class(type(module))
                if members is not None:
                    members.append(module)

    def _first_of_class(self, cls: type[nn.Module]) -> list[nn.Module] | None:
        extensible = mark_of(original_class(cls))[0] is not None
        members = self.by_class[cls] = [] if extensible else None
        return members

    def device_of(self, module: nn.Module) -> torch.device:
        """Where a module lives: by its own or its subtree's tensors, else by an ancestor's."""
        device = _first_device(module)
        ancestor = self._parent(module) if device is None else None
        while device is None and ancestor is not None:
            key = id(ancestor)
            if key not in self._found:
                self._found[key] = _first_device(ancestor)
            device = self._found[key]
            ancestor = self._parent(ancestor)
        if device is None:
            raise MissingDeviceError(
                f"Cannot tell the device of {type(self.model).__qualname__}: it has no parameters "
                f"or buffers. Pass device=, as in kernelize(model, mode=..., device='cpu')."
            )
        return device

    def _parent(self, module: nn.Module) -> nn.Module | None:
        # Few modules have no tensors in or below them: the way up is only drawn when one is met.
        if not self._parents:
            for parent in self.model.modules():
                for child in parent.children():
                    self._parents.setdefault(id(child), parent)
        return self._parents.get(id(module))


def own_device(module: nn.Module) -> torch.device | None:
    """The device of a module's first own parameter or buffer, or None."""
    for parameter in module._parameters.values():
        if parameter is not None:
            return parameter.device
    for buffer in module._buffers.values():
        if buffer is not None:
            return buffer.device
    return None


def _first_device(module: nn.Module) -> torch.device | None:
    """The device of the first parameter or buffer in a subtree, or None."""
    seen: set[int] = set()
    stack = [module]
    while stack:
        current = stack.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        device = own_device(current)
        if device is not None:
            return device
        stack.extend(child for child in reversed(current._modules.values()) if child is not None)
    return None


def modules_by_class(model: nn.Module) -> Iterator[tuple[type[nn.Module], list[nn.Module]]]:
    """The extensible modules and functions of a model, by their present class."""
    tree = _Tree(model)
    for cls, members in tree.by_class.items():
        if members is not None:
            yield cls, members
    for function in _owners_by_function(tree):
        yield type(function), [function]


def scan(model: nn.Module, device: torch.device | None) -> list[Group]:
    """Find the extensible modules and functions of a model, grouped for one decision each.

    Args:
        model: the model.
        device: the device that decides for all, or None to tell it module by module.

    Returns:
        Groups in the order in which the walk met their classes.

    Raises:
        MissingDeviceError: no device is given and a module has none.
    """
    tree = _Tree(model)
    if device is None:
        tree.device_of(model)  # a model without tensors is an error, extensible layers or none
    groups: list[Group] = []
    for cls, members in tree.by_class.items():
        if members is not None:
            groups.extend(_groups_of(tree, cls, members, device))
    groups.extend(_function_groups(tree, device))
    return groups


def _groups_of(
    tree: _Tree, cls: type[nn.Module], members: list[nn.Module], given: torch.device | None
) -> Iterable[Group]:
    layer_name, overriding = mark_of(original_class(cls))
    assert layer_name is not None
    overridden = (
        f"{overriding.__qualname__} has a forward of its own, which the mark on its base class "
        f"does not cover"
        if overriding
        else ""
    )
    condition = getattr(cls, "kernel_condition", None)
    groups: dict[tuple[str, torch.device], Group] = {}
    last_kept, last_device, neighbours = None, None, members
    for module in members:
        attributes = module.__dict__
        kept = overridden
        if condition is not None and not kept and not condition(module):
            kept = CONDITION
        if "forward" in attributes:
            kept = kept or FOREIGN_FORWARD
        device = given
        if device is None:
            for parameter in attributes["_parameters"].values():
                if parameter is not None:
                    device = parameter.device
                    break
            else:
                device = tree.device_of(module)
        # Neighbours mostly belong together, which saves hashing the device.
        if kept != last_kept or device != last_device:
            group = groups.get((kept, device))
            if group is None:
                group = groups[kept, device] = Group(layer_name, cls, device, kept=kept)
            last_kept, last_device, neighbours = kept, device, group.modules
        neighbours.append(module)
    return groups.values()


def _owners_by_function(tree: _Tree) -> dict[nn.Module, list[nn.Module]]:
    owners_of: dict[nn.Module, list[nn.Module]] = {}
    for owner in tree.owners:
        for function in owner.__dict__["_kernel_funcs"].values():
            owners_of.setdefault(function, []).append(owner)
    return owners_of


def _function_groups(tree: _Tree, given: torch.device | None) -> Iterator[Group]:
    for function, owners in _owners_by_function(tree).items():
        cls = type(function)
        layer_name, _ = mark_of(original_class(cls))
        assert layer_name is not None
        condition = getattr(cls, "kernel_condition", None)
        asking = [owner for owner in owners if condition is None or condition(owner)]
        device = given or tree.device_of((asking or owners)[0])
        kept = "" if asking else CONDITION
        group = Group(layer_name, cls, device, kept=kept, function=True)
        group.modules.append(function)
        yield group
