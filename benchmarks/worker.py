"""One fresh process that measures one implementation and prints its figures as JSON.

Usage: worker.py (scale | call | choosing) PACKAGE REPOSITORY [LAYERS ...]
"""

from __future__ import annotations

import gc
import importlib
import json
import statistics
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from trees import (
    OwnTensor,
    SubtreeTensor,
    Tree,
    bind,
    layer_classes,
    mapping,
    write_builds,
    write_repository,
)

# What the layers derive from, by what determines their device.
KINDS: dict[str, type[nn.Module]] = {
    "own tensors": OwnTensor,
    "subtree": SubtreeTensor,
    "device=": OwnTensor,
    "own, condition": OwnTensor,
}
REPEATS = 5
MANY = 1_000
LOADS = 20
RANGED_LAYERS = 100
CALL_ROUNDS = 15
CALLS_PER_ROUND = 50_000


def timed_ms(function: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1000


def scale(api: Any, layers: list[int]) -> list[dict[str, Any]]:
    """Time kernelize and the baseline, over trees of all sizes and kinds."""
    figures = []
    # A collection would count for whatever runs at that moment.
    gc.disable()
    for device_from, base in KINDS.items():
        condition = (lambda layer: True) if device_from == "own, condition" else None
        classes = layer_classes(api, base, condition)
        for count in layers:
            figures += _scale_one(api, classes, count, device_from)
            gc.collect()  # bound methods are cycles: without this no tree would be freed
    return figures


def _scale_one(
    api: Any, classes: list[type[nn.Module]], layers: int, device_from: str
) -> list[dict[str, Any]]:
    functions: Any = {cls: cls.forward for cls in classes}
    device = "cpu" if device_from == "device=" else None

    def kernelize(tree: Tree) -> float:
        return timed_ms(lambda: api.kernelize(tree.model, mode=api.Mode.INFERENCE, device=device))

    kernelize(Tree(classes, len(classes)))  # loads the kernels
    # Two trees, since binding and kernelize would find each other's changes in one.
    tree, bound_tree = Tree(classes, layers), Tree(classes, layers)
    figures = []

    def measure(step: str, repeats: int, change: bool = False) -> None:
        pairs = []
        for _ in range(repeats):
            if change:
                tree.change()
                bound_tree.change()
            pairs.append((timed_ms(lambda: bind(bound_tree.model, functions)), kernelize(tree)))
        figures.append(
            {
                "layers": layers,
                "device_from": device_from,
                "step": step,
                "baseline_ms": statistics.median(least for least, _ in pairs),
                "ms": statistics.median(whole for _, whole in pairs),
                # pair by pair, since the speed of a busy machine drifts
                "times": statistics.median(whole / least for least, whole in pairs),
            }
        )

    measure("first", 1)
    measure("second", REPEATS)
    measure("changed", REPEATS, change=True)
    check_kernelized(tree.model, layers)
    return figures


def check_kernelized(model: nn.Module, layers: int) -> None:
    """Raise AssertionError when too few layers run their kernel: their times mean nothing."""
    files = [Path(module.forward.__code__.co_filename).name for module in model.modules()]
    kernels = files.count("layers.py")
    # Each change moved one layer to another device and wrapped one.
    if kernels < layers - 2 * REPEATS:
        raise AssertionError(f"only {kernels} of {layers} layers run their kernel")


def call(api: Any) -> float:
    """Nanoseconds that a call of a kernelized layer takes beyond one of a plain layer.

    The plain layer is of a class whose forward is the very function that the kernel runs.
    """
    cls = layer_classes(api, OwnTensor)[0]
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


def choosing(api: Any, import_ms: float) -> dict[str, float]:
    """Milliseconds to find the kernel, whatever the size of the model.

    `import_ms` is the time of importing the package, with torch imported before.
    """
    gc.disable()
    with tempfile.TemporaryDirectory() as folder:
        first, *others = (Path(folder, f"kernel{number}") for number in range(LOADS + 1))
        for path in (first, *others):
            write_repository(path)
        builds = Path(folder, "builds")
        write_builds(builds, MANY)
        very_first = import_ms + first_load_ms(api, first)
        return {
            "first load in a process": very_first,
            "first load": statistics.median(first_load_ms(api, path) for path in others),
            "builds": repeated_ms(lambda: api.get_local_kernel(builds)),
            "mapping": enter_mapping(api, first),
            "ranges": rank_ranges(api, first),
        }


def first_load_ms(api: Any, repository: Path) -> float:
    """Time the load of a kernel that was not loaded before."""
    return timed_ms(lambda: api.get_local_kernel(repository))


def repeated_ms(function: Callable[[], object]) -> float:
    """Time a call of something that was called before."""
    function()
    return statistics.median(timed_ms(function) for _ in range(LOADS))


def enter_mapping(api: Any, repository: Path) -> float:
    """Milliseconds for entering and leaving a mapping of one layer over an outer one of many."""
    kernel = api.LocalLayerRepository(repository, layer_name="Layer0")
    outer = {f"Outer{number}": {"cpu": kernel} for number in range(MANY)}

    def enter() -> None:
        with api.use_kernel_mapping({"Inner": {"cpu": kernel}}):
            pass

    with api.use_kernel_mapping(outer, inherit_mapping=False):
        return repeated_ms(enter)


def rank_ranges(api: Any, repository: Path) -> float:
    """Milliseconds for kernelizing again where many overlapping capability ranges are mapped."""
    pretend_gpu(api)
    kernel = api.LocalLayerRepository(repository, layer_name="Layer0")
    ranges = [api.CUDAProperties(90 - width % 90, 91 + width // 90) for width in range(MANY)]
    layer_class = layer_classes(api, OwnTensor)[0]
    model = nn.ModuleList(layer_class() for _ in range(RANGED_LAYERS))
    device = torch.device("cuda", 0)
    with api.use_kernel_mapping(
        {"Layer0": {api.Device("cuda", properties): kernel for properties in ranges}},
        inherit_mapping=False,
    ):
        elapsed = repeated_ms(lambda: api.kernelize(model, mode=api.Mode.INFERENCE, device=device))
    check_kernelized(model, RANGED_LAYERS)
    return elapsed


def pretend_gpu(api: Any) -> None:
    """Make an implementation see an H200, whatever is in this machine."""
    if api.__name__ == "kernels":
        torch.cuda.get_device_capability = lambda device=None: (9, 0)
        return
    from kernels_backend_cuda import _probe

    _probe.runtime = lambda: _probe.Runtime(cuda="13.0", driver=(13, 0), device_count=1)
    _probe.gpu = lambda index: _probe.Gpu("NVIDIA H200", 9, 0, 150109880320)
    api.plugins.reset()


def main() -> None:
    """Measure what the command line asks for."""
    what, package, repository, *layers = sys.argv[1:]
    start = time.perf_counter()
    api = importlib.import_module(package)
    import_ms = (time.perf_counter() - start) * 1000
    figures: Any
    if what == "choosing":
        figures = choosing(api, import_ms)
    else:
        api.register_kernel_mapping(mapping(api, Path(repository)))
        figures = scale(api, [int(count) for count in layers]) if what == "scale" else call(api)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
