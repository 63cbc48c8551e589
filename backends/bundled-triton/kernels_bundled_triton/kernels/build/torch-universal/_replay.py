"""Doing again what an operator did, for arguments that differ in nothing but their values.

Shapes, strides, dtypes and the like decide which tensors an operator makes, and which compiled
kernels it launches with which sizes. Triton finds that out at every launch, and at a batch of one
token that takes longer than what the kernels compute.
"""

from typing import Any, List, NamedTuple, Tuple

import torch
import triton
from triton.knobs import runtime
from triton.runtime.driver import driver

from ._launch import Launch

# Triton's own code for a launch, by the versions that it was seen in. It also takes the addresses
# of tensors, and then does not ask the driver whose each of them is.
_LAUNCHERS = {(3, 6): "CudaLauncher", (3, 7): "CudaLauncher"}
_VERSION = tuple(int(part) for part in triton.__version__.split(".")[:2])

# Triton compiles a version of its own for pointers that are aligned to so many bytes.
_ALIGNMENT = 16

# What compiled graphs of torch make their tensors with, on the current device.
_empty: Any = getattr(torch._C._dynamo.guards, "_empty_strided_cuda", None)

# What tells them, in one step, whether tensors are like those that they were made for.
_Guards: Any = getattr(torch._C._dynamo.guards, "TensorGuards", None)

_current_device: Any = getattr(torch._C, "_cuda_getDevice", torch.accelerator.current_device_index)


class _Again(NamedTuple):
    """One launch.

    Attributes:
        launch: launches the kernel.
        grid: how many programs, in three dimensions.
        middle: what stands between the stream and the kernel's arguments.
        order: for each of its tensors the number of the argument or, counted on, of the result; -1
            for one that it does without.
        rest: its scalars and constants.
    """

    launch: Any
    grid: Tuple[int, int, int]
    middle: Tuple[Any, ...]
    order: List[int]
    rest: Tuple[Any, ...]


class Replay:
    """Launches, and the tensors to make for them.

    Args:
        launches: the launches, in order.
        args: what the operator was called with: tensors, then other things.
        count: how many tensors.
        result: what it gave back.
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
        """Whether arguments differ in nothing but their values; may miss that they do not.

        Args:
            args: what the operator is called with.
        """
        return bool(
            self.check is not None
            and args[self.count :] == self.others
            and self.check(*args[: self.count])
            and not (self.recorded and torch.is_grad_enabled())
        )

    def __call__(self, args: "tuple[Any, ...]") -> Any:
        """Do it again.

        Args:
            args: what the operator is called with.

        Returns:
            The results; None where the tensors lie otherwise or Triton should launch by itself.
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
    """How to do again what was done; None where tensors took part that are not to be seen here.

    Args:
        args: the operator's arguments.
        result: what it gave back.
        launches: what it launched.
    """
    count = sum(isinstance(arg, torch.Tensor) for arg in args)
    tensors = args[:count]
    if not all(isinstance(arg, torch.Tensor) for arg in tensors):
        return None  # they do not come first
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
        return None  # something else made a result
    return Replay(steps, args, count, result)


def _order(launch: Launch, pool: "tuple[Any, ...]") -> "List[int] | None":
    order = []
    for tensor in launch.tensors:
        if tensor is None:
            order.append(-1)
            continue
        numbers = [number for number, one in enumerate(pool) if one is tensor]
        # Nothing by that number: a copy or a view that was made on the way.
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
        # What `run` itself calls, in C.
        step = run.launch
        flags = run.launch_cooperative_grid, run.launch_pdl
        middle = (compiled.function, *flags, None, None, *middle[1:])
    return _Again(step, (launch.grid, 1, 1), middle, order, launch.rest)


def _is_observed() -> bool:
    # Whether somebody, a profiler say, wants to be told of launches.
    enter, leave = runtime.launch_enter_hook, runtime.launch_exit_hook
    return bool(getattr(enter, "calls", enter) or getattr(leave, "calls", leave))
