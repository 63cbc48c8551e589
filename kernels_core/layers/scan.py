"""Walking a model: which modules are extensible, of which class, on which device.

Per module this is a lookup or two; everything else is done once per group of modules that share
class and device.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    """The extensible modules of a model, each once, by class, with the way up from each."""

    def __init__(self, model: nn.Module) -> None:
        # Per class: its modules and, in the same order, their parents; None: not extensible.
        self.by_class: dict[type[nn.Module], tuple[list[Any], list[Any]] | None] = {}
        # Functions in the order of discovery, with the modules that use them.
        self.functions: dict[nn.Module, list[nn.Module]] = {}
        self._parents: dict[int, nn.Module | None] = {id(model): None}
        self._found: dict[int, torch.device | None] = {}
        self._walk(model)

    def _walk(self, model: nn.Module) -> None:
        by_class = self.by_class
        self._add(model, None)
        seen = {id(model)}
        stack = [model]
        while stack:
            parent = stack.pop()
            for child in parent._modules.values():
                if child is None or id(child) in seen:
                    continue
                seen.add(id(child))
                if child._modules:
                    self._parents[id(child)] = parent
                    stack.append(child)
                cls = type(child)
                # _add does all of it; what follows is its short form for what is met most.
                if cls not in by_class or "_kernel_funcs" in child.__dict__:
                    self._add(child, parent)
                else:
                    lists = by_class[cls]
                    if lists is not None:
                        lists[0].append(child)
                        lists[1].append(parent)

    def _add(self, module: nn.Module, parent: nn.Module | None) -> None:
        cls = type(module)
        if cls not in self.by_class:
            marked = mark_of(original_class(cls))[0] is not None
            self.by_class[cls] = ([], []) if marked else None
        lists = self.by_class[cls]
        if lists is not None:
            lists[0].append(module)
            lists[1].append(parent)
        for function in module.__dict__.get("_kernel_funcs", {}).values():
            self.functions.setdefault(function, []).append(module)
            self._parents.setdefault(id(module), parent)

    def owner_device(self, owner: nn.Module) -> torch.device:
        """Where a module that uses functions lives."""
        return self.device_of(owner, self._parents[id(owner)])

    def device_of(self, module: nn.Module, parent: nn.Module | None) -> torch.device:
        """Where a module lives: by its own tensors, else its subtree's, else an ancestor's."""
        device = _first_device(module)
        while device is None and parent is not None:
            key = id(parent)
            if key not in self._found:
                self._found[key] = _first_device(parent)
            device = self._found[key]
            parent = self._parents[key]
        if device is None:
            raise MissingDeviceError(
                f"{type(module).__qualname__} has no parameters or buffers to tell its device "
                f"from, and nothing around it has: pass device=, as in device='cpu'."
            )
        return device


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
    for cls, lists in tree.by_class.items():
        if lists is not None:
            yield cls, lists[0]
    for function in tree.functions:
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
    if device is None and _first_device(model) is None:
        raise MissingDeviceError(
            f"Cannot tell the device of {type(model).__qualname__}: it has no parameters or "
            f"buffers. Pass device=, as in kernelize(model, mode=..., device='cpu')."
        )
    tree = _Tree(model)
    groups: list[Group] = []
    for cls, lists in tree.by_class.items():
        if lists is not None:
            groups.extend(_groups_of(tree, cls, lists, device))
    groups.extend(_function_groups(tree, device))
    return groups


def _groups_of(
    tree: _Tree,
    cls: type[nn.Module],
    lists: tuple[list[nn.Module], list[nn.Module]],
    given: torch.device | None,
) -> Iterator[Group]:
    layer_name, overriding = mark_of(original_class(cls))
    assert layer_name is not None
    always_kept = (
        f"{overriding.__qualname__} has a forward of its own, which the mark on its base class "
        f"does not cover"
        if overriding
        else ""
    )
    condition = getattr(cls, "kernel_condition", None)
    groups: dict[tuple[str, torch.device], Group] = {}
    group: Group | None = None
    for module, parent in zip(*lists, strict=True):
        device = given or own_device(module) or tree.device_of(module, parent)
        if always_kept:
            kept = always_kept
        elif condition is not None and not condition(module):
            kept = CONDITION
        elif "forward" in module.__dict__:
            kept = FOREIGN_FORWARD
        else:
            kept = ""
        # Neighbours mostly belong together, which saves hashing the device.
        if group is None or group.device != device or group.kept != kept:
            group = groups.get((kept, device))
            if group is None:
                group = groups[kept, device] = Group(layer_name, cls, device, kept=kept)
        group.modules.append(module)
    yield from groups.values()


def _function_groups(tree: _Tree, given: torch.device | None) -> Iterator[Group]:
    for function, owners in tree.functions.items():
        cls = type(function)
        layer_name, _ = mark_of(original_class(cls))
        assert layer_name is not None
        condition = getattr(cls, "kernel_condition", None)
        asking = [owner for owner in owners if condition is None or condition(owner)]
        owner = (asking or owners)[0]
        kept = "" if asking else CONDITION
        group = Group(layer_name, cls, given or tree.owner_device(owner), kept=kept, function=True)
        group.modules.append(function)
        yield group
