"""Whether a module runs a kernel, and which; the class that it has without one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from kernels_core.layers import classes
from kernels_core.layers.captures import running
from kernels_core.layers.load import build_of_layer

if TYPE_CHECKING:
    from torch import nn


@attrs.frozen
class LayerKernel:
    """The kernel whose forward a module runs.

    Attributes:
        layer: name of the layer in the kernel.
        repository: where the kernel comes from, a path or "org/name"; None for a layer of a
            repository class that is not from this package.
        variant: name of the build, or None.
        commit: commit of the repository, or None where it has none.
    """

    layer: str
    repository: str | None = None
    variant: str | None = None
    commit: str | None = None

    def __str__(self) -> str:
        parts = [
            f"{self.layer} from {self.repository}" if self.repository else self.layer,
            f"variant {self.variant}" if self.variant else "",
            f"commit {self.commit}" if self.commit else "",
        ]
        return ", ".join(filter(None, parts))


def kernel_of(module: nn.Module) -> LayerKernel | None:
    """The kernel whose forward a module runs, or None where it runs its own.

    `"forward" in module.__dict__` is no test for this: `kernelize` gives a module another class and
    stores nothing on it.

    Args:
        module: a module, for example one that `model.named_modules()` gives, or an extensible
            function. Its submodules are not considered.

    Example:
        >>> from torch import nn
        >>> from kernels_core import kernel_of
        >>> print(kernel_of(nn.Linear(2, 2)))
        None
    """
    layer = running(module).layer
    if layer is None:
        return None
    build = build_of_layer(layer)
    if build is None:
        return LayerKernel(layer.__name__)
    return LayerKernel(layer.__name__, build.repository, build.variant, build.commit)


def original_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module without a kernel, for code that asks for exactly one class.

    A kernelized module has a subclass of its class; `type(module) is SomeClass` is False for it,
    and a table by class does not find it.

    Args:
        module: a module, whether kernelized or not.

    Returns:
        The class that `unkernelize` gives it back; `type(module)` if it runs no kernel.

    Example:
        >>> from torch import nn
        >>> from kernels_core import original_class
        >>> original_class(nn.Linear(2, 2)) is nn.Linear
        True
    """
    return classes.original_class(type(module))
