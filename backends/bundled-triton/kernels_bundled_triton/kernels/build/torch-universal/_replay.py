"""Doing again what an operator did, for arguments that differ in nothing but their values.

Shapes, strides, dtypes and the like decide which tensors an operator makes, and which compiled
kernel it launches with which sizes. Triton finds that out at every launch, and at a batch of one
token that takes longer than what the kernels compute.
"""

from typing import Any, List, Tuple

import torch
import triton
from triton import knobs
from triton.runtime.driver import driver

from ._launch import Launch

# The versions of Triton whose compiled kernels were seen to be launched as below.
SUPPORTED = (3, 6) <= tuple(int(part) for part in triton.__version__.split(".")[:2]) <= (3, 7)

# Triton compiles a version of its own for pointers that are aligned to so many bytes.
ALIGNMENT = 16


class Replay:
    """One launch and the tensors to make for it.

    Args:
        launch: the launch.
        order: for each of its tensors the number of the argument or, counted on, of the result; -1
            for one that it does without.
        results: for each result the number of an argument that is like it, or how to make it.
        single: whether the operator gave back a tensor, and not a tuple.
        index: the device.
    """

    __slots__ = ("compiled", "grid", "index", "order", "rest", "results", "single", "stream_of")

    def __init__(
        self,
        launch: Launch,
        order: List[int],
        results: List[Any],
        single: bool,
        index: int,
    ) -> None:
        self.compiled, self.grid, _, self.rest = launch
        self.order, self.results, self.single, self.index = order, results, single, index
        self.stream_of = driver.active.get_current_stream

    def __call__(self, args: "tuple[Any, ...]") -> Any:
        """Do it again."""
        made = [
            torch.empty_like(args[how])
            if type(how) is int
            else torch.empty_strided(how[0], how[1], dtype=how[2], device=how[3])
            for how in self.results
        ]
        pool = (*args, *made, None)
        compiled = self.compiled
        compiled.run(
            self.grid,
            1,
            1,
            self.stream_of(self.index),
            compiled.function,
            compiled.packed_metadata,
            None,
            None,
            None,
            *[pool[number] for number in self.order],
            *self.rest,
        )
        return made[0] if self.single else tuple(made)


def replay_of(args: "tuple[Any, ...]", result: Any, launches: List[Launch]) -> "Replay | None":
    """How to do again what was done, or None where that was more than one launch over tensors.

    Args:
        args: the operator's arguments.
        result: what it gave back.
        launches: what it launched.
    """
    if not SUPPORTED or len(launches) != 1:
        return None
    made = (result,) if isinstance(result, torch.Tensor) else result
    pool = (*args, *made)
    order: List[int] = []
    for tensor in launches[0].tensors:
        if tensor is None:
            order.append(-1)
            continue
        if tensor.data_ptr() % ALIGNMENT:
            return None
        numbers = [number for number, one in enumerate(pool) if one is tensor]
        if not numbers:
            return None  # a copy or a view that was made on the way
        order.append(numbers[0])
    results = [_how_to_make(tensor, args) for tensor in made]
    single = isinstance(result, torch.Tensor)
    return Replay(launches[0], order, results, single, made[0].get_device())


def _how_to_make(tensor: torch.Tensor, args: "tuple[Any, ...]") -> "int | Tuple[Any, ...]":
    for number, arg in enumerate(args):
        if (
            isinstance(arg, torch.Tensor)
            and arg.shape == tensor.shape
            and arg.dtype == tensor.dtype
            and torch.empty_like(arg).stride() == tensor.stride()
        ):
            return number
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def is_observed() -> bool:
    """Whether somebody, a profiler say, wants to be told of launches."""
    enter, leave = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    return bool(getattr(enter, "calls", enter) or getattr(leave, "calls", leave))
