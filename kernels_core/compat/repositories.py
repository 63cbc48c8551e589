"""A function of a kernel as a layer: the deprecated `Func*Repository` of Hugging Face `kernels`."""

from __future__ import annotations

import functools
import inspect
import os
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from kernels_core.errors import LayerNotFoundError
from kernels_core.layers.extensible import use_kernel_forward_from_hub
from kernels_core.layers.repositories import (
    LayerRepository,
    LocalLayerRepository,
    LockedLayerRepository,
)
from kernels_core.loading.loaded import load_build
from kernels_core.repository.builds import Build

if TYPE_CHECKING:
    from torch import nn

_T = TypeVar("_T")


def _warn(name: str, replacement: str) -> None:
    warnings.warn(f"{name} is deprecated: use {replacement}.", FutureWarning, stacklevel=3)


class _Function:
    """Loads a function of a kernel as a layer; comes before a class that loads layers."""

    __slots__ = ()

    layer_name: str

    @property
    def func_name(self) -> str:
        """Name of the function in the kernel."""
        return self.layer_name

    def load_layer(self, build: Build) -> type[nn.Module]:
        """Import a build and return a layer whose forward calls the function."""
        function = getattr(load_build(build), self.func_name, None)
        if not callable(function):
            raise LayerNotFoundError(
                f"{build.repository} (variant {build.variant}) has no function {self.func_name!r}.",
                repository=build.repository,
                layer=self.func_name,
                rule="exported",
            )
        return _layer_of(function)


# Once per function, so that torch.compile always sees the same class.
@functools.cache
def _layer_of(function: Callable[..., Any]) -> type[nn.Module]:
    from torch import nn

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    signature = inspect.signature(function)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    forward.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[own, *signature.parameters.values()]
    )
    members = {
        "__module__": function.__module__,
        "can_torch_compile": getattr(function, "can_torch_compile", False),
        "has_backward": getattr(function, "has_backward", True),
        "forward": forward,
    }
    return type(function.__name__, (nn.Module,), members)


@attrs.frozen(init=False)
class FuncRepository(_Function, LayerRepository):
    """A function of a kernel repository on the Hub; deprecated, use `LayerRepository`.

    Args:
        repo_id: the repository, "org/name".
        func_name: name of the function in the kernel.
        revision: branch, tag or commit.
        version: major version.
        trust_remote_code: as for `LayerRepository`.
    """

    def __init__(
        self,
        repo_id: str,
        *,
        func_name: str,
        revision: str | None = None,
        version: int | str | None = None,
        trust_remote_code: bool | Iterable[str] = False,
    ) -> None:
        _warn("FuncRepository", "LayerRepository")
        LayerRepository.__init__(
            self,
            repo_id,
            func_name,
            revision=revision,
            version=version,
            trust_remote_code=trust_remote_code,
        )


@attrs.frozen(init=False)
class LocalFuncRepository(_Function, LocalLayerRepository):
    """A function of a kernel repository on disk; deprecated, use `LocalLayerRepository`.

    Args:
        repo_path: the directory that contains `build`.
        func_name: name of the function in the kernel.
    """

    def __init__(self, repo_path: str | os.PathLike[str], *, func_name: str) -> None:
        _warn("LocalFuncRepository", "LocalLayerRepository")
        LocalLayerRepository.__init__(self, repo_path, layer_name=func_name)


@attrs.frozen(init=False)
class LockedFuncRepository(_Function, LockedLayerRepository):
    """A function of a locked kernel; deprecated, use `LockedLayerRepository`.

    Args:
        repo_id: the repository, "org/name".
        lockfile: the lock file; by default the one in the metadata of the calling package.
        func_name: name of the function in the kernel.
        trust_remote_code: as for `LayerRepository`.
    """

    def __init__(
        self,
        repo_id: str,
        *,
        lockfile: str | os.PathLike[str] | None = None,
        func_name: str,
        trust_remote_code: bool | Iterable[str] = False,
    ) -> None:
        _warn("LockedFuncRepository", "LockedLayerRepository")
        LockedLayerRepository.__init__(
            self,
            repo_id,
            layer_name=func_name,
            lockfile=lockfile,
            trust_remote_code=trust_remote_code,
        )


def use_kernel_func_from_hub(func_name: str) -> Callable[[_T], _T]:
    """Make a function extensible; deprecated, use `use_kernel_forward_from_hub`."""
    _warn("use_kernel_func_from_hub", "use_kernel_forward_from_hub")
    return use_kernel_forward_from_hub(func_name)
