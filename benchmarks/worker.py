"""One fresh process that measures one implementation and prints its figures as JSON.

Usage: worker.py (scale | call) PACKAGE REPOSITORY [LAYERS ...]
"""

from __future__ import annotations

import gc
import importlib
import json
import statistics
import sys
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from trees import BASES, Tree, floor, layer_classes, mapping

REPEATS = 5
CALL_ROUNDS = 15
CALLS_PER_ROUND = 50_000


def timed_ms(function: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1000


def scale(api: Any, layers: list[int]) -> list[dict[str, Any]]:
    """Time kernelize beside the floor, over trees of all sizes and kinds.

    Args:
        api: the implementation's package.
        layers: sizes of the trees.
    """
    figures = []
    # The collector would strike whoever runs when it is due. Off, it is equal for all of them.
    gc.disable()
    for device_from, base in BASES.items():
        classes = layer_classes(api, base)
        for count in layers:
            figures += _scale_one(api, classes, count, device_from)
            gc.collect()  # bound methods are cycles: without this no tree would be freed
    return figures


def _scale_one(
    api: Any, classes: list[type[nn.Module]], layers: int, device_from: str
) -> list[dict[str, Any]]:
    functions: Any = {cls: cls.forward for cls in classes}

    def kernelize(tree: Tree) -> float:
        return timed_ms(lambda: api.kernelize(tree.model, mode=api.Mode.INFERENCE))

    kernelize(Tree(classes, len(classes)))  # loads the kernels
    # A tree of its own: binding must not meet what kernelize left behind, nor the other way round.
    tree, floor_tree = Tree(classes, layers), Tree(classes, layers)
    figures = []

    def measure(step: str, repeats: int, change: bool = False) -> None:
        pairs = []
        for _ in range(repeats):
            if change:
                tree.change()
                floor_tree.change()
            pairs.append((timed_ms(lambda: floor(floor_tree.model, functions)), kernelize(tree)))
        figures.append(
            {
                "layers": layers,
                "device_from": device_from,
                "step": step,
                "floor_ms": statistics.median(least for least, _ in pairs),
                "ms": statistics.median(whole for _, whole in pairs),
                # pair by pair, since the speed of a busy machine drifts
                "floors": statistics.median(whole / least for least, whole in pairs),
            }
        )

    measure("first", 1)
    measure("second", REPEATS)
    measure("changed", REPEATS, change=True)
    check_kernelized(tree.model, layers)
    return figures


def check_kernelized(model: nn.Module, layers: int) -> None:
    """Figures of an implementation that replaced nothing would mean nothing.

    Args:
        model: the tree, after all steps.
        layers: how many layers it had at first; some are on another device or wrapped by now.

    Raises:
        AssertionError: too few layers run their kernel.
    """
    files = [Path(module.forward.__code__.co_filename).name for module in model.modules()]
    kernels = files.count("layers.py")
    if kernels < layers - 2 * REPEATS:
        raise AssertionError(f"only {kernels} of {layers} layers run their kernel")


def call(api: Any) -> float:
    """Nanoseconds that a call of a kernelized layer takes beyond one of a plain layer.

    The plain layer is of a class whose forward is the very function that the kernel runs.

    Args:
        api: the implementation's package.
    """
    cls = layer_classes(api, BASES["own tensors"])[0]
    layer = api.kernelize(cls(), mode=api.Mode.INFERENCE)
    plain_class = type("Plain", (nn.Module,), {"forward": layer.forward.__func__})
    plain = plain_class()
    plain.weight = nn.Parameter(torch.empty(1))
    x = torch.empty(1)

    def per_call(module: nn.Module) -> float:
        timer = timeit.Timer("module(x)", globals={"module": module, "x": x})
        return timer.timeit(CALLS_PER_ROUND) / CALLS_PER_ROUND * 1e9

    rounds = [(per_call(plain), per_call(layer)) for _ in range(CALL_ROUNDS)]
    return statistics.median(kernelized - same for same, kernelized in rounds)


def main() -> None:
    """Measure what the command line asks for."""
    what, package, repository, *layers = sys.argv[1:]
    api = importlib.import_module(package)
    api.register_kernel_mapping(mapping(api, Path(repository)))
    figures = scale(api, [int(count) for count in layers]) if what == "scale" else call(api)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
