"""An operator, and the shortest way to run it.

Where somebody watches (a compiler, a tracer, a transform such as vmap, a dispatch mode, a subclass
of Tensor), an operator goes through torch's dispatcher, which knows its schema, its gradient and
what is in it. Where nobody does, that would only cost time: its body is called, under autograd
through a `torch.autograd.Function`; and what the body did once for such arguments is only done
again.
"""

from typing import Any, Callable, Dict, Optional

import torch
from torch.library import triton_op

from ._launch import PLAIN, recorded_launches
from ._namespace import NAMESPACE
from ._replay import ALIGNMENT, Replay, is_observed, replay_of

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
        """Run it, whoever watches."""
        if (
            torch.compiler.is_compiling()
            or torch._C._len_torch_dispatch_stack()
            or torch._C._are_functorch_transforms_active()
            or torch._C._get_tracing_state() is not None
        ):
            return self.registered(*args)
        key: Any = []
        pointers = 0
        records = False
        for arg in args:
            if type(arg) in PLAIN:
                pointers |= arg.data_ptr()
                key += (arg.shape, arg.stride(), arg.dtype, arg.get_device())
                records = records or arg.requires_grad
            elif isinstance(arg, torch.Tensor):
                return self.registered(*args)
            else:
                key.append(arg)
        if not records or not torch.is_grad_enabled():
            return self._run(tuple(key), pointers, args)
        if self.recorded is None:
            return self.registered(*args)  # which says that it has no gradient
        return self.recorded.apply(*args)

    def _run(self, key: Any, pointers: int, args: Any) -> Any:
        if pointers % ALIGNMENT:
            return self.body(*args)
        replay = self.replays.get(key, self)
        if replay is self:
            return self._first(key, args)
        if (
            replay is None
            or replay.index != torch.accelerator.current_device_index()
            or is_observed()
        ):
            return self.body(*args)
        return replay(args)

    def _first(self, key: Any, args: Any) -> Any:
        with recorded_launches() as launches:
            result = self.body(*args)
        tensors = [id(arg) for arg in args if isinstance(arg, torch.Tensor)]
        if len(set(tensors)) < len(tensors):
            return result  # one tensor for two arguments: next time they may be two
        if len(self.replays) >= _MOST_REPLAYS:
            self.replays.clear()
        self.replays[key] = replay_of(args, result, launches)
        return result
