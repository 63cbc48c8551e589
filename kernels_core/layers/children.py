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

_CHILDREN, _MODULES = ("children", "named_children"), ("modules", "named_modules")


def _overrides(cls: type[nn.Module], names: tuple[str, ...]) -> bool:
    from torch import nn

    return any(getattr(cls, name) is not getattr(nn.Module, name) for name in names)


class UsualClasses(dict["type[nn.Module]", bool]):
    """By class, whether `_modules` is where nn.Module keeps it, and has all children."""

    def __missing__(self, cls: type[nn.Module]) -> bool:
        self[cls] = not hasattr(cls, "_modules") and not _overrides(cls, _CHILDREN + _MODULES)
        return self[cls]


def children_of(module: nn.Module, usual: UsualClasses) -> Iterable[Any]:
    """The children of a module in order; some may be None, or come twice."""
    members: Iterable[Any] = module._modules.values()
    if usual[type(module)]:
        return members
    found = [*members]
    if _overrides(type(module), _CHILDREN):
        found += module.children()
    if _overrides(type(module), _MODULES):
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
