"""What is measured: a kernel repository, trees of extensible layers, and the baseline.

The baseline, `bind`, is the least that replacing forwards can cost: one walk that binds a function
to every extensible layer, and decides nothing.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn

CLASSES = 5

KERNEL = "import torch\n\nfrom . import layers\n\n__all__ = ['layers']\n"

# The layer reads its weight, as real ones do, so that the cost of finding it counts.
KERNEL_LAYER = """
class Layer{number}(nn.Module):
    weight: torch.Tensor

    def forward(self, x):
        return x, self.weight
"""


def write_repository(folder: Path) -> None:
    """Write a kernel repository that both implementations can load, on any backend."""
    variant = folder / "build" / "torch-universal"
    variant.mkdir(parents=True)
    layers = "".join(KERNEL_LAYER.format(number=number) for number in range(CLASSES))
    # A distinct id: Hugging Face `kernels` confuses kernels that share one.
    metadata = {"name": folder.name, "id": folder.name, "version": 1, "license": "Apache-2.0"}
    metadata |= {"python-depends": [], "backend": {"type": "cpu"}}
    (variant / "__init__.py").write_text(KERNEL, "utf-8")
    (variant / "layers.py").write_text(f"import torch\nfrom torch import nn\n{layers}", "utf-8")
    (variant / "metadata.json").write_text(json.dumps(metadata), "utf-8")


class OwnTensor(nn.Module):
    """A layer that holds its weight itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the kernels replace; never called here."""
        return x, self.weight


class Inner(nn.Module):
    """Holds a tensor for a layer around it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(1))


class SubtreeTensor(nn.Module):
    """A layer without tensors of its own, like an MLP made of linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    @property
    def weight(self) -> torch.Tensor:
        """The tensor that stands for the layer's weights."""
        return self.inner.scale

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the kernels replace; never called here."""
        return x, self.weight


def write_builds(folder: Path, count: int) -> None:
    """Write a kernel repository of many builds, of which one fits every backend."""
    write_repository(folder)
    # Of torch 1: those of torch 2 could fit, once there is such a torch and CUDA.
    names = (
        f"torch1{minor}-{abi}-{tag}-{machine}"
        for minor in range(100)
        for abi in ("cxx11", "cxx98")
        for tag in ("cu118", "cu126", "cu130", "rocm70", "xpu20252")
        for machine in ("x86_64-linux", "aarch64-linux")
    )
    for name in itertools.islice(names, count - 1):
        (folder / "build" / name).mkdir()


def layer_classes(
    api: Any, base: type[nn.Module], condition: Callable[[Any], bool] | None = None
) -> list[type[nn.Module]]:
    """Distinct extensible classes, marked by one implementation."""
    made = []
    for number in range(CLASSES):
        cls = type(f"{base.__name__}{number}", (base,), {"forward": base.forward})
        made.append(api.use_kernel_forward_from_hub(f"Layer{number}", condition=condition)(cls))
    return made


def mapping(api: Any, repository: Path) -> dict[str, Any]:
    """The mapping of every layer to its kernel."""
    return {
        f"Layer{number}": {"cpu": api.LocalLayerRepository(repository, layer_name=f"Layer{number}")}
        for number in range(CLASSES)
    }


class Tree:
    """A model of extensible layers, in blocks of one layer of each class."""

    def __init__(self, classes: list[type[nn.Module]], layers: int) -> None:
        self._classes = classes
        self._changes = 0
        blocks = range(layers // len(classes))
        self.model = nn.ModuleList(nn.ModuleList(cls() for cls in classes) for _ in blocks)

    def change(self) -> None:
        """Add one layer, move one to another device and wrap one; other ones at each call."""
        self._changes += 1
        block: Any = self.model[self._changes % len(self.model)]
        block.append(self._classes[0]())
        block[1].to("meta")
        wrapped = block[2].forward
        block[2].forward = lambda x: wrapped(x)


def bind(model: nn.Module, functions: Mapping[type, FunctionType]) -> None:
    """Bind to every extensible layer the function of its class, and nothing else."""
    seen = {model}
    stack = [model]
    while stack:
        for child in stack.pop()._modules.values():
            if child is None or child in seen:
                continue
            seen.add(child)
            function = functions.get(type(child))
            if function is not None:
                child.__dict__["forward"] = MethodType(function, child)
            if child._modules:
                stack.append(child)
