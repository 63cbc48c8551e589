"""An operator, and the shortest way to run it.

Where somebody watches (a compiler, a tracer, a transform such as vmap, a dispatch mode, a subclass
of Tensor), an operator goes through torch's dispatcher, which knows its schema, its gradient and
what is in it. Where nobody does, that would only cost time: its body is called, under autograd
through a `torch.autograd.Function`; and what the body did once for such arguments is only done
again.
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

# A text of many lengths meets many shapes; those that are long gone need not be remembered.
_MOST_REPLAYS = 1024


class Operator:
    """An operator of this build.

    Args:
        body: what it does; its annotations are its schema. It looks at the values of no tensor.
        setup: what it keeps for its gradient, as `torch.library.register_autograd` takes it.
        backward: its gradient; None when it has none.
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
            # Within, no gradient is recorded, so that calling this operator runs it.
            members = {"forward": self, "setup_context": setup, "backward": backward}
            statics = {name: staticmethod(function) for name, function in members.items()}
            self.recorded = type(name, (torch.autograd.Function,), statics)

    def __call__(self, *args: Any) -> Any:
        """Run it, in the shortest way."""
        result = self.again(*args)
        return self.run(*args) if result is None else result

    def again(self, *args: Any) -> Any:
        """Do again what it did for arguments that differ from these in nothing but their values.

        Asking this first saves a caller from checking arguments that were checked before.

        Returns:
            What the operator gives back; None where it was not run for such arguments yet, where
            somebody watches, and where a gradient is to be recorded.
        """
        if _is_watched():
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
        """Run it, whoever watches."""
        if _is_watched() or not all(
            type(arg) in PLAIN for arg in args if isinstance(arg, torch.Tensor)
        ):
            return self.registered(*args)
        key = _key(args)
        if key is None:  # a gradient is to be recorded
            operator = self.registered if self.recorded is None else self.recorded.apply
            return operator(*args)
        if key in self.replays:
            return self.body(*args)
        with recorded_launches() as launches:
            result = self.body(*args)
        tensors = [id(arg) for arg in args if isinstance(arg, torch.Tensor)]
        if len(set(tensors)) < len(tensors):
            return result  # one tensor for two arguments: next time they may be two
        if len(self.replays) >= _MOST_REPLAYS:
            self.replays.clear()
        self.replays[key] = replay_of(args, result, launches)
        return result


def _is_watched() -> bool:
    return bool(
        is_compiling()
        or _len_torch_dispatch_stack()
        or _are_functorch_transforms_active()
        or _get_tracing_state() is not None
    )


def _key(args: "tuple[Any, ...]") -> "Optional[Tuple[Any, ...]]":
    # All of the arguments but the values of tensors. None where a gradient is to be recorded, and
    # for subclasses of tensors.
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
