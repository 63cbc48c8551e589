"""The modules below a module, by what nn.Module's protocol offers.

Most keep their children in `__dict__["_modules"]`. A traced module gets them through
`__getattr__`, a class may make `_modules` a property, and one that overrides `children` or
`modules` may have some that are not in `_modules` at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


class UsualClasses(dict["type[nn.Module]", bool]):
    """By class, whether `_modules` is where nn.Module keeps it, and has all children."""

    def __missing__(self, cls: type[nn.Module]) -> bool:
        usual = not (hasattr(cls, "_modules") or _has_own_children(cls) or _has_own_modules(cls))
        self[cls] = usual
        return usual


def _has_own_children(cls: type[nn.Module]) -> bool:
    from torch.nn import Module

    return not (cls.children is Module.children and cls.named_children is Module.named_children)


def _has_own_modules(cls: type[nn.Module]) -> bool:
    from torch.nn import Module

    return not (cls.modules is Module.modules and cls.named_modules is Module.named_modules)


def children_of(module: nn.Module, usual: UsualClasses) -> Iterable[Any]:
    """The children of a module in order; some may be None, or come twice."""
    members: Iterable[Any] = module._modules.values()
    if usual[type(module)]:
        return members
    found = [*members]
    if _has_own_children(type(module)):
        found += module.children()
    if _has_own_modules(type(module)):
        found += module.modules()
    return found


def each_module(module: nn.Module, usual: UsualClasses | None = None) -> Iterator[nn.Module]:
    """A module and all below it, each once, depth first and in order."""
    usual = UsualClasses() if usual is None else usual
    # They are told apart as torch does in Module.modules(): by their hash and equality.
    seen: set[Any] = {None}
    pending: list[Iterator[Any]] = [iter((module,))]
    while pending:
        for found in pending[-1]:
            if found not in seen:
                seen.add(found)
                yield found
                pending.append(iter(children_of(found, usual)))
                break  # its children first, then the rest
        else:
            pending.pop()
