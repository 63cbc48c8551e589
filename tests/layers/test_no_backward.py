"""Kernels without a backward: gradients through them raise, and nothing else changes."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from kernels_core import Mode, errors, kernelize, use_kernel_forward_from_hub

X = torch.arange(6.0).reshape(2, 3)

# `compute` is native code, as far as autograd can tell. Each layer returns its result differently.
HEAD = """
import collections
import dataclasses
import threading
import types

import attrs

@dataclasses.dataclass
class Data:
    hidden: object
    rest: object = None

@dataclasses.dataclass(frozen=True)
class Frozen:
    hidden: object

@attrs.frozen
class Slots:
    hidden: object

class More(Slots):
    pass

class Plain:
    def __init__(self, hidden):
        self.hidden = hidden

class Mapping(collections.OrderedDict):
    pass

Named = collections.namedtuple("Named", "hidden rest")

GLOBAL = torch.ones(3, requires_grad=True)

@torch.library.custom_op("kernels_core_tests::operate", mutates_args=())
def operate(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return weight * x

@operate.register_fake
def _(weight, x):
    return torch.empty_like(x)

def compute(module, x):
    with torch.no_grad():
        return module.weight * x
"""
LAYER = """
class Kernel(nn.Module):
    has_backward = False
    can_torch_compile = True

    def forward(self, x, other=None):
        {body}
"""
# What a kernel returns, and where the tensor is in it.
RESULTS = {
    "tensor": ("y", "r"),
    "nested": ("[(None, {'y': [y]})]", "r[0][1]['y'][0]"),
    "namedtuple": ("Named(y, 1)", "r.hidden"),
    "set": ("{y}", "next(iter(r))"),
    "mapping": ("Mapping(y=y)", "r['y']"),
    "dataclass": ("Data([Data(y)])", "r.hidden[0].hidden"),
    "frozen dataclass": ("Frozen(y)", "r.hidden"),
    "object": ("Plain(y)", "r.hidden"),
    "slots": ("Slots(y)", "r.hidden"),
    "slots and attributes": ("More(y)", "r.hidden"),
    "namespace": ("types.SimpleNamespace(y=y)", "r.y"),
}
BACKENDS = ["eager mode", "eager", "aot_eager", "inductor"]


@use_kernel_forward_from_hub("Scaled")
class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 2.0))

    def forward(self, x: torch.Tensor, other: Any = None) -> torch.Tensor:
        return self.weight * x


class Model(nn.Module):
    def __init__(self, find: str = "r") -> None:
        super().__init__()
        self.below = nn.Linear(3, 3)
        self.scale = Scaled()
        self.above = nn.Parameter(torch.ones(3))
        self.find: Callable[[Any], torch.Tensor] = eval(f"lambda r: {find}")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.find(self.scale(self.below(x)))


@pytest.fixture
def kernelized(make_kernel):
    """A model with a layer that runs this body, or returns this."""

    def make(body: str = "return compute(self, x)", find: str = "r", model: Any = None) -> Any:
        repository = make_kernel(HEAD + LAYER.format(body=body))
        mapping = {"Scaled": {"cpu": repository("Kernel")}}
        model = Model(find) if model is None else model
        return kernelize(model, mode=Mode.INFERENCE | Mode.TORCH_COMPILE, mapping=mapping)

    return make


# Each operation, and what comes out of it: an error is its name.


def backward(call, model):
    (call(X) + model.above).sum().backward()


def grad(call, model):
    output = (call(X) + model.above).sum()
    torch.autograd.grad(output, [model.below.weight], allow_unused=True)


def in_place(call, model):
    hidden = call(X)
    hidden += X
    hidden.mul_(2)
    expected = 2 * (2 * model.below(X) + X)
    return torch.allclose(hidden, expected)


def vmap(call, model):
    expected = 2 * model.below(X)
    return torch.allclose(torch.vmap(call)(X), expected)


def func_grad(call, model):
    torch.func.grad(lambda x: call(x).sum())(X)


def checkpointed(call, model):
    hidden = checkpoint(call, X.clone().requires_grad_(), use_reentrant=False)
    (hidden + model.above).sum().backward()


def no_grad_in_place(call, model):
    with torch.no_grad():
        hidden = call(X)
        hidden += 1
        return not hidden.requires_grad and torch.allclose(hidden, 2 * model.below(X) + 1)


OPERATIONS = {
    backward: "NoBackwardError",
    grad: "NoBackwardError",
    in_place: True,
    vmap: True,
    func_grad: "NoBackwardError",
    checkpointed: "NoBackwardError",
    no_grad_in_place: True,
}


def outcome(operation, backend, model):
    torch._dynamo.reset()
    call = model if backend == "eager mode" else torch.compile(model, backend=backend)
    try:
        return operation(call, model)
    except Exception as error:
        return type(error).__name__


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("result", ["tensor", "nested", "dataclass"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_matrix(kernelized, training, backend, result, operation):
    if backend == "inductor" and (training or result == "nested"):
        pytest.skip("compiles as it does for aot_eager")
    expression, find = RESULTS[result]
    model = kernelized(f"y = compute(self, x); return {expression}", find).train(training)
    assert outcome(operation, backend, model) == OPERATIONS[operation]


@pytest.mark.parametrize("result", RESULTS)
def test_tensors_are_found_in_results(kernelized, result):
    expression, find = RESULTS[result]
    model = kernelized(f"y = compute(self, x); return {expression}", find)
    plain = kernelized(f"y = compute(self, x); return {expression}", find)
    plain.requires_grad_(False)
    assert outcome(in_place, "eager mode", model) is True
    assert outcome(backward, "eager mode", model) == "NoBackwardError"
    assert type(model.scale(X)) is type(plain.scale(X))
    assert outcome(in_place, "eager mode", plain) is True


def raises(output: torch.Tensor) -> bool:
    with pytest.raises(errors.NoBackwardError) as caught:
        output.sum().backward()
    return caught.value.layer == "Kernel"


@pytest.mark.parametrize(
    "result", ["lambda: y", "iter([y])", "threading.Lock()", "type('T', (tuple,), {})([y])"]
)
def test_results_that_cannot_be_searched_are_refused(kernelized, result):
    model = kernelized(f"y = compute(self, x); return {result}")
    with pytest.raises(errors.NoBackwardError, match="returned a value of type"):
        model.scale(X)
    with torch.no_grad():
        model.scale(X)
    model.requires_grad_(False)
    model.scale(X)


def test_results_that_hold_no_tensors_stay_as_they_are(kernelized):
    model = kernelized(
        "self.kept = Plain(Data(1, torch.long)); return self.kept, x.shape, 'x', 1.5"
    )
    kept, *rest = model.scale(X)
    assert kept is model.scale.kept
    assert rest == [X.shape, "x", 1.5]


def test_gradients_of_every_dependency_raise(kernelized):
    model = kernelized("return compute(self, x) + other['bias'].detach()")
    bias, x = (torch.ones(3, requires_grad=True) for _ in range(2))
    output = model.scale(x, {"bias": bias}).sum()
    for tensor in (x, bias, model.scale.weight):
        with pytest.raises(errors.NoBackwardError):
            torch.autograd.grad(output, tensor, allow_unused=True, retain_graph=True)
    unrelated = torch.ones(3, requires_grad=True)
    (gradient,) = torch.autograd.grad(output + unrelated.sum(), unrelated)
    assert gradient.tolist() == [1, 1, 1]


def test_training_fails_clearly_until_kernelized_for_it(kernelized):
    model = kernelized()
    with pytest.raises(RuntimeError, match=r"'Kernel', which has no backward.*TRAINING"):
        model(X).sum().backward()
    assert model.below.weight.grad is None
    with pytest.warns(RuntimeWarning, match="replaced none"):
        kernelize(model, mode=Mode.TRAINING, mapping={})
    model(X).sum().backward()
    assert model.scale.weight.grad.abs().sum() > 0


def test_frozen_weights_under_an_input_that_records(kernelized):
    model = kernelized().requires_grad_(False)
    assert not model(X).requires_grad
    assert raises(model(X.clone().requires_grad_()))


def test_tensors_that_are_neither_arguments_nor_parameters(kernelized):
    model = kernelized("return self.attribute * x if other is None else GLOBAL * x")
    model.requires_grad_(False)
    model.scale.attribute = torch.ones(3, requires_grad=True)
    assert raises(model.scale(X))
    model.scale.attribute = None
    assert raises(model.scale(X, 1))


def test_results_that_a_kernel_stores_elsewhere(kernelized):
    model = kernelized(
        "y = compute(self, x); self.loss = y.mean(); other['new'] = [y]; other['all'].append(y)\n"
        "        return y"
    )
    old = torch.ones(3, requires_grad=True) * 2
    state = {"all": [old]}
    output = model.scale(X, state)
    assert state["new"][0] is output is state["all"][1]
    assert state["all"][0] is old
    assert raises(output)
    assert raises(model.scale.loss)
    assert raises(state["new"][0])
    old.sum().backward()


def test_arguments_that_a_kernel_writes_to(kernelized):
    model = kernelized("with torch.no_grad(): x.mul_(2); other.copy_(x)\n        return x")
    hidden, out = model.below(X), torch.empty(2, 3)
    expected = 2 * hidden.detach()
    output = model.scale(hidden, out)
    assert output is hidden
    assert torch.equal(hidden, expected)
    assert torch.equal(out, expected)
    output += X
    assert raises(output)
    assert raises(out)


def test_a_returned_argument_and_parameter(kernelized):
    model = kernelized("return x, self.weight, x[0], self.weight[1:]")
    weight = model.scale.weight
    results = model.scale(X)
    assert all(raises(result) for result in results)
    assert not X.requires_grad
    assert model.scale.weight is weight
    assert weight.is_leaf
    for result in results[1::2]:
        with pytest.raises(RuntimeError, match="modified inplace"):  # it would change the weight
            result.mul_(2)


@pytest.mark.parametrize("body", ["return x", "x.data.mul_(2); return x", "return x.view(6)[:3]"])
def test_results_that_share_memory_with_arguments_can_be_changed_in_place(kernelized, body):
    model = kernelized(body)
    hidden = model.below(X)
    output = model.scale(hidden)
    expected = output.detach() + 1
    output += 1
    assert torch.equal(output, expected)
    assert raises(output)


def test_what_a_kernel_stores_in_its_module_keeps_alive_the_last_call_only(kernelized):
    model = kernelized("self.workspace = x * 2; return compute(self, x)")
    alive = []
    for _ in range(3):
        inner = X.clone()
        alive.append(weakref.ref(inner))
        model.scale(model.above * inner)
        del inner
    assert [one() is not None for one in alive] == [False, False, True]


def test_attributes_of_a_result_are_kept(kernelized):
    model = kernelized("y = compute(self, x); y.scale = y.mean(); y.own = y; return y")
    output = model.scale(X)
    assert output.own is output
    assert raises(output.scale)


def test_state_of_an_earlier_call_is_a_dependency(kernelized):
    model = kernelized("y = x + getattr(self, 'state', 0); self.state = y; return y.detach()")
    model.requires_grad_(False)
    prompt = X.clone().requires_grad_()
    model.scale(prompt)
    model.scale(X)
    with pytest.raises(errors.NoBackwardError):
        torch.autograd.grad(model.scale(X).sum(), prompt)


def test_a_cached_output(kernelized):
    model = kernelized("cache = self.__dict__.setdefault('cache', [x * 3]); return cache[0]")
    first, second = model.scale(X), model.scale(X)
    assert raises(first)
    assert raises(second)
    with torch.no_grad():
        assert not model.scale(X).requires_grad
    assert first.data_ptr() == second.data_ptr(), "no copy"


@pytest.mark.parametrize("dtype", [torch.complex64, torch.bfloat16, torch.float8_e4m3fn])
def test_dtypes(kernelized, dtype):
    model = kernelized(f"return compute(self, x).to({dtype})")
    assert raises(model.scale(X).to(torch.complex64).real)


def test_integers_have_no_gradients(kernelized):
    model = kernelized("return compute(self, x).argmax(-1)")
    assert not model.scale(X).requires_grad


def test_kernels_that_run_in_inference_mode(kernelized):
    model = kernelized("with torch.inference_mode(): y = self.weight * x\n        return y")
    hidden = model(X)
    hidden += X
    assert raises(hidden * torch.ones(3, requires_grad=True))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoints(kernelized, use_reentrant):
    model = kernelized()
    x = X.clone().requires_grad_()
    assert raises(checkpoint(model, x, use_reentrant=use_reentrant))


def test_transforms(kernelized):
    model = kernelized()
    for transform in (torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
        with pytest.raises(errors.NoBackwardError):
            transform(lambda x: model(x).sum())(X)
    with pytest.raises(errors.NoBackwardError):
        torch.vmap(torch.func.grad(lambda x: model(x).sum()))(X)
    with pytest.raises(errors.NoBackwardError):
        torch.func.jvp(model, (X,), (X,))
    with torch.no_grad(), forward_ad.dual_level(), pytest.raises(errors.NoBackwardError):
        model(forward_ad.make_dual(X, X))
    parameters = dict(model.named_parameters())
    assert raises(torch.func.functional_call(model, parameters, (X,)))


@pytest.mark.parametrize("dynamic", [True, False])
def test_whole_graphs(kernelized, dynamic):
    model = kernelized().eval()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    assert torch.allclose(compiled(X), 2 * model.below(X))
    assert raises(compiled(X))
    torch._dynamo.reset()
    mapped = torch.compile(torch.vmap(model), fullgraph=True, backend="aot_eager")
    assert torch.allclose(mapped(X), 2 * model.below(X))


def test_functionalized(kernelized):
    model = kernelized()
    hidden = torch.func.functionalize(model)(X)
    hidden += X
    assert raises(hidden)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_operators_without_a_backward_compile(kernelized, backend):
    model = kernelized("return operate(self.weight, x)")
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    assert torch.allclose(compiled(X), 2 * model.below(X))
    assert raises(compiled(X))


def test_traces_while_gradients_are_recorded(kernelized, tmp_path):
    model = kernelized()
    torch.jit.trace(model, (X,)).save(tmp_path / "traced")
    for traced in (torch.jit.load(tmp_path / "traced"), torch.fx.symbolic_trace(model)):
        assert torch.allclose(traced(X), model(X))
        assert "NoBackward" not in str(traced.graph)


def test_traces_hold_what_the_kernel_does(kernelized):
    model = kernelized()
    with torch.no_grad():
        jit = torch.jit.trace(model, (X,))
        made = make_fx(model)(X)
    exported = torch.export.export(model.requires_grad_(False), (X,)).module()
    for traced in (jit, made, exported):
        assert torch.allclose(traced(X), model(X))
        assert "without_backward" not in str(traced.graph)


def test_exported_with_gradients_they_still_raise(kernelized):
    model = kernelized()
    assert raises(torch.export.export(model, (X,)).module()(X))
