"""Replaying what an operator did, for arguments that differ only in the values of tensors.

Shapes, strides, dtypes and the like decide which tensors an operator allocates, which compiled
kernels it launches and with which sizes. Triton computes that for every launch, and for a batch of
one token that takes longer than the kernels.
"""

from typing import Any, List, NamedTuple, Tuple

import torch
import triton
from triton.knobs import runtime
from triton.runtime.driver import driver

from ._launch import Launch

# The class that launches kernels, in the versions of Triton that were tested. It accepts addresses
# of tensors, and then does not query the driver for their devices.
_LAUNCHERS = {(3, 6): "CudaLauncher", (3, 7): "CudaLauncher"}
_VERSION = tuple(int(part) for part in triton.__version__.split(".")[:2])

# Triton compiles separate code for pointers that are aligned to so many bytes.
_ALIGNMENT = 16

# The function that torch's compiled graphs allocate tensors with, on the current device.
_empty: Any = getattr(torch._C._dynamo.guards, "_empty_strided_cuda", None)

# What they use to check in one step whether tensors are like those that they were compiled for.
_Guards: Any = getattr(torch._C._dynamo.guards, "TensorGuards", None)

_current_device: Any = getattr(torch._C, "_cuda_getDevice", torch.accelerator.current_device_index)


class _Again(NamedTuple):
    """One launch.

    Attributes:
        launch: launches the kernel.
        grid: the number of programs, in three dimensions.
        middle: what is passed between the stream and the kernel's arguments.
        order: for each of its tensors the index among arguments and results; -1 for an optional one
            that is missing.
        rest: its scalars and constants.
    """

    launch: Any
    grid: Tuple[int, int, int]
    middle: Tuple[Any, ...]
    order: List[int]
    rest: Tuple[Any, ...]


class Replay:
    """Launches in order, and the tensors to allocate for them.

    `args` are the operator's arguments, of which the first `count` are tensors, `result` what it
    returned.
    """

    __slots__ = (
        "check",
        "count",
        "device",
        "launches",
        "others",
        "recorded",
        "results",
        "single",
        "stream_of",
    )

    def __init__(
        self, launches: List[_Again], args: "tuple[Any, ...]", count: int, result: Any
    ) -> None:
        self.launches, self.count = launches, count
        self.single = isinstance(result, torch.Tensor)
        made = (result,) if self.single else result
        self.results = [(tuple(one.shape), one.stride(), one.dtype) for one in made]
        self.device = made[0].device
        self.stream_of = driver.active.get_current_stream
        tensors, self.others = args[:count], args[count:]
        self.recorded = any(tensor.requires_grad for tensor in tensors)
        self.check: Any = None
        if _Guards is not None:
            sizes = [list(tensor.shape) for tensor in tensors]
            strides = [list(tensor.stride()) for tensor in tensors]
            guards = _Guards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)
            self.check = guards.check

    def is_for(self, args: "tuple[Any, ...]") -> bool:
        """Whether arguments differ only in values of tensors; may return False if they do."""
        return bool(
            self.check is not None
            and args[self.count :] == self.others
            and self.check(*args[: self.count])
            and not (self.recorded and torch.is_grad_enabled())
        )

    def __call__(self, args: "tuple[Any, ...]") -> Any:
        """Replay the launches and return the results.

        Returns None if tensors are not aligned, or Triton has to launch by itself.
        """
        pointers = [tensor.data_ptr() for tensor in args[: self.count]]
        together = 0
        for pointer in pointers:
            together |= pointer
        index = self.device.index
        if together % _ALIGNMENT or index != _current_device() or _is_observed():
            return None
        if _empty is None:
            made = [torch.empty_strided(*how, device=self.device) for how in self.results]
        else:
            made = [_empty(*how) for how in self.results]
        pointers += [tensor.data_ptr() for tensor in made]
        pointers.append(0)
        stream = self.stream_of(index)
        for launch, grid, middle, order, rest in self.launches:
            launch(*grid, stream, *middle, *[pointers[number] for number in order], *rest)
        return made[0] if self.single else tuple(made)


def replay_of(args: "tuple[Any, ...]", result: Any, launches: List[Launch]) -> "Replay | None":
    """A replay of what was done; None if it used other tensors than arguments and results."""
    count = sum(isinstance(arg, torch.Tensor) for arg in args)
    tensors = args[:count]
    if not all(isinstance(arg, torch.Tensor) for arg in tensors):
        return None  # tensors are not the first arguments
    pool = (*tensors, *((result,) if isinstance(result, torch.Tensor) else result))
    steps = []
    for launch in launches:
        order = _order(launch, pool)
        again = None if order is None else _again(launch, order)
        if again is None:
            return None
        steps.append(again)
    written = {number for step in steps for number in step.order}
    if not steps or not written.issuperset(range(count, len(pool))):
        return None  # a result was computed otherwise
    return Replay(steps, args, count, result)


def _order(launch: Launch, pool: "tuple[Any, ...]") -> "List[int] | None":
    order = []
    for tensor in launch.tensors:
        if tensor is None:
            order.append(-1)
            continue
        numbers = [number for number, one in enumerate(pool) if one is tensor]
        # Not found: a copy or a view that the operator made.
        if not numbers or tensor.data_ptr() % _ALIGNMENT:
            return None
        order.append(numbers[0])
    return order


def _again(launch: Launch, order: List[int]) -> "_Again | None":
    compiled = launch.compiled
    run = compiled.run
    if type(run).__name__ != _LAUNCHERS.get(_VERSION):
        return None
    step: Any = run
    middle = (compiled.function, compiled.packed_metadata, None, None, None)
    if _VERSION == (3, 6) and not (run.global_scratch_size or run.profile_scratch_size):
        # The C function that `run` calls.
        step = run.launch
        flags = run.launch_cooperative_grid, run.launch_pdl
        middle = (compiled.function, *flags, None, None, *middle[1:])
    return _Again(step, (launch.grid, 1, 1), middle, order, launch.rest)


def _is_observed() -> bool:
    # Whether there is a hook for launches, of a profiler for example.
    enter, leave = runtime.launch_enter_hook, runtime.launch_exit_hook
    return bool(getattr(enter, "calls", enter) or getattr(leave, "calls", leave))
