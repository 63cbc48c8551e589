"""Launching a Triton kernel on the device of its tensors."""

import threading
from contextlib import contextmanager
from typing import Any, Iterator, List, NamedTuple, Tuple

import torch
from torch.library import wrap_triton
from triton.runtime.jit import JITFunction

PLAIN = (torch.Tensor, torch.nn.Parameter)


class Launch(NamedTuple):
    """A launch that was recorded.

    Attributes:
        compiled: the kernel, compiled for these arguments.
        grid: the number of programs.
        tensors: its tensors; None for an optional one that is missing.
        rest: its scalars and constants.
    """

    compiled: Any
    grid: int
    tensors: Tuple[Any, ...]
    rest: Tuple[Any, ...]


_recording = threading.local()


@contextmanager
def recorded_launches() -> "Iterator[List[Launch]]":
    """Record the launches of this thread."""
    launches: List[Launch] = []
    _recording.launches = launches
    try:
        yield launches
    finally:
        _recording.launches = None


def launch(
    kernel: Any,
    grid: int,
    tensors: "tuple[torch.Tensor | None, ...]",
    scalars: "tuple[int | float, ...]",
    constants: "tuple[object, ...]",
    num_warps: int,
) -> None:
    """Launch a kernel with its tensors, of which the first is not None, scalars and constants."""
    rest = (*scalars, *constants)
    first: Any = tensors[0]
    compiles = isinstance(kernel, JITFunction)  # otherwise it is interpreted
    if type(first) not in PLAIN:
        if compiles:  # Triton's interpreter cannot be traced
            wrap_triton(kernel)[(grid,)](*tensors, *rest, num_warps=num_warps)
        return
    places = [tensor.device for tensor in tensors if tensor is not None]
    if any(place != first.device for place in places):
        names = ", ".join(map(str, places))
        raise ValueError(f"All tensors of a kernel must be on one device, but they are on {names}.")
    if compiles and first.device.index != torch.accelerator.current_device_index():
        with torch.get_device_module(first.device).device(first.device):
            launch(kernel, grid, tensors, scalars, constants, num_warps)
        return
    compiled = kernel[(grid,)](*tensors, *rest, num_warps=num_warps)
    launches = getattr(_recording, "launches", None)
    if launches is not None and compiles:
        launches.append(Launch(compiled, grid, tensors, rest))


def cdiv(a: int, b: int) -> int:
    """The quotient, rounded up."""
    return (a + b - 1) // b


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is not below `n`."""
    return 1 << max(n - 1, 0).bit_length()
