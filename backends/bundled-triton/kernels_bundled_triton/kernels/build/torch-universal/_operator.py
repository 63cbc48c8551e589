"""An operator, and the fastest way to run it.

If a call can be intercepted (by a compiler, a tracer, a transform such as vmap, a dispatch mode or
a subclass of Tensor), the operator goes through torch's dispatcher, with its schema and gradient.
Otherwise the dispatcher would only cost time: the body is called directly, or through a
`torch.autograd.Function` if a gradient is recorded. What the body did for such arguments is kept,
and replayed from then on.
"""

from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from torch._C import (
    _are_functorch_transforms_active,
    _get_tracing_state,
    _len_torch_dispatch_stack,
)
from torch.compiler import is_compiling
from torch.library import triton_op

from ._launch import PLAIN, recorded_launches
from ._namespace import NAMESPACE
from ._replay import Replay, replay_of

# Texts of many lengths have many shapes; old ones need not be kept.
_MOST_REPLAYS = 1024


class Operator:
    """An operator of this build.

    Args:
        body: computes it; its annotations are the schema. It must not depend on values of tensors.
        setup: saves what the gradient needs, as `torch.library.register_autograd` calls it.
        backward: its gradient; None if it has none.
    """

    def __init__(
        self,
        body: Callable[..., Any],
        setup: Optional[Callable[..., None]] = None,
        backward: Optional[Callable[..., Any]] = None,
    ) -> None:
        self.body = body
        self.replays: Dict[Any, Optional[Replay]] = {}
        self.latest: Optional[Replay] = None
        name = body.__name__.strip("_")
        self.registered: Any = triton_op(f"{NAMESPACE}::{name}", body, mutates_args=())
        self.recorded: Any = None
        if backward is not None:
            self.registered.register_autograd(backward, setup_context=setup)
            # In `forward` no gradient is recorded, so that calling this operator runs it.
            members = {"forward": self, "setup_context": setup, "backward": backward}
            statics = {name: staticmethod(function) for name, function in members.items()}
            self.recorded = type(name, (torch.autograd.Function,), statics)

    def __call__(self, *args: Any) -> Any:
        """Run it in the fastest way."""
        result = self.again(*args)
        return self.run(*args) if result is None else result

    def again(self, *args: Any) -> Any:
        """Replay what it did for arguments that differ from these only in values of tensors.

        A caller that tries this first need not check arguments that have been checked before.
        Returns None if there is nothing to replay, the call can be intercepted or a gradient is
        recorded.
        """
        if _is_intercepted():
            return None
        latest = self.latest
        if latest is not None and latest.is_for(args):
            return latest(args)
        key = _key(args)
        replay = None if key is None else self.replays.get(key)
        if replay is None:
            return None
        self.latest = replay
        return replay(args)

    def run(self, *args: Any) -> Any:
        """Run it, through the dispatcher if the call is intercepted."""
        if _is_intercepted() or not all(
            type(arg) in PLAIN for arg in args if isinstance(arg, torch.Tensor)
        ):
            return self.registered(*args)
        key = _key(args)
        if key is None:  # a gradient is recorded
            operator = self.registered if self.recorded is None else self.recorded.apply
            return operator(*args)
        if key in self.replays:
            return self.body(*args)
        with recorded_launches() as launches:
            result = self.body(*args)
        tensors = [id(arg) for arg in args if isinstance(arg, torch.Tensor)]
        if len(set(tensors)) < len(tensors):
            return result  # one tensor for two arguments: next time they may differ
        if len(self.replays) >= _MOST_REPLAYS:
            self.replays.clear()
        self.replays[key] = replay_of(args, result, launches)
        return result


def _is_intercepted() -> bool:
    return bool(
        is_compiling()
        or _len_torch_dispatch_stack()
        or _are_functorch_transforms_active()
        or _get_tracing_state() is not None
    )


def _key(args: "tuple[Any, ...]") -> "Optional[Tuple[Any, ...]]":
    # Everything about the arguments but the values of tensors. None if a gradient is recorded, and
    # for subclasses of Tensor.
    key: List[Any] = []
    records = torch.is_grad_enabled()
    for arg in args:
        if type(arg) in PLAIN:
            if records and arg.requires_grad:
                return None
            key += (arg.shape, arg.stride(), arg.dtype, arg.get_device())
        elif isinstance(arg, torch.Tensor):
            return None
        else:
            key.append(arg)
    return tuple(key)
