"""Kernelized models behave like models: hooks, copies, pickles, compilation, training, memory."""

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from kernels_core import (
    Mode,
    kernelize,
    register_kernel_mapping,
    unkernelize,
    use_kernel_forward_from_hub,
    use_kernel_mapping,
)

X = torch.ones(3)


@use_kernel_forward_from_hub("Scale")
class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 2.0))
        self.register_buffer("steps", torch.zeros(1))

    def forward(self, x):
        return self.weight * x


@pytest.fixture
def kernelized(scaled):
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    return kernelize(nn.Sequential(Scale(), Scale()), mode=Mode.INFERENCE)


def test_state_and_structure_stay(kernelized):
    plain = nn.Sequential(Scale(), Scale())
    assert list(kernelized.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in kernelized.named_modules()] == ["", "0", "1"]
    assert [name for name, _ in kernelized.named_parameters()] == ["0.weight", "1.weight"]
    assert repr(kernelized) == repr(plain)
    kernelized.load_state_dict(plain.state_dict())


def test_hooks_run_and_stay(kernelized):
    seen = []
    kernelized[0].register_forward_pre_hook(lambda module, args: seen.append("before"))
    kernelized[0].register_forward_hook(lambda module, args, out: seen.append("after"))
    kernelized[0].register_full_backward_hook(lambda module, gin, gout: seen.append("backward"))
    kernelized(X).sum().backward()
    unkernelize(kernelized)
    kernelized(X)
    assert seen == ["before", "after", "backward", "before", "after"]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_copies_stay_kernelized_and_compute_with_their_own_weights(kernelized, copied):
    layer = kernelized[0]
    twin = copied(layer)
    assert type(twin) is type(layer)
    assert twin(X).tolist() == [20, 20, 20]
    twin.weight = nn.Parameter(torch.full((3,), 3.0))
    if copied is copy.deepcopy:
        assert layer(X).tolist() == [20, 20, 20]
    assert twin(X).tolist() == [30, 30, 30]
    unkernelize(twin)
    assert type(layer) is not Scale, "undoing a copy leaves the original alone"


def test_deepcopy_of_modules_that_refer_to_each_other(kernelized):
    kernelized[0].__dict__["sibling"] = kernelized[1]
    kernelized[1].__dict__["sibling"] = kernelized[0]
    twin = copy.deepcopy(kernelized)
    assert twin[0].sibling is twin[1]
    assert twin[1].sibling is twin[0]
    assert twin[0] is not kernelized[0]


def test_own_ways_of_copying_are_kept(scaled):
    class Counting(Scale):
        copies = 0

        def __deepcopy__(self, memo):
            Counting.copies += 1
            return Counting()

    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    twin = copy.deepcopy(kernelize(Counting(), mode=Mode.INFERENCE))
    assert Counting.copies == 1
    assert twin(X).tolist() == [20, 20, 20]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_load_as_the_original_class(kernelized, protocol):
    with torch.no_grad():
        kernelized[0].weight.fill_(4)
    loaded = pickle.loads(pickle.dumps(kernelized, protocol))
    assert type(loaded[0]) is Scale
    assert loaded[0](X).tolist() == [4, 4, 4]


def test_torch_save_and_load(kernelized):
    buffer = io.BytesIO()
    torch.save(kernelized, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    assert type(loaded[0]) is Scale
    assert kernelize(loaded, mode=Mode.INFERENCE)(X).tolist() == [400, 400, 400]


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_compile_sees_the_kernel_and_notices_another_one(scaled, backend):
    torch.compiler.reset()
    model = nn.Sequential(Scale(), nn.Linear(3, 3))
    mode = Mode.INFERENCE | Mode.TORCH_COMPILE
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        for layer, factor in [("Times10", 10), ("Times100", 100)]:
            with use_kernel_mapping({"Scale": {"cpu": scaled(layer)}}):
                kernelize(model, mode=mode, use_fallback=False)
            torch.testing.assert_close(compiled(X), model[1](factor * model[0].weight * X))
        unkernelize(model)
        torch.testing.assert_close(compiled(X), model[1](model[0].weight * X))


def test_kernelizing_often_does_not_recompile_often(scaled):
    torch.compiler.reset()
    compilations = []

    def count(graph, example_inputs):
        compilations.append(graph)
        return graph.forward

    model = Scale()
    compiled = torch.compile(model, fullgraph=True, backend=count)
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    for _ in range(12):
        kernelize(model, mode=Mode.INFERENCE | Mode.TORCH_COMPILE)
        compiled(X)
        unkernelize(model)
        compiled(X)
    assert len(compilations) <= 4


def test_export(kernelized):
    exported = torch.export.export(kernelized, (X,))
    assert exported.module()(X).tolist() == [400, 400, 400]


def test_functional_call(kernelized):
    weights = {"0.weight": torch.full((3,), 5.0)}
    assert torch.func.functional_call(kernelized, weights, (X,)).tolist() == [1000, 1000, 1000]


def test_gradients_flow_through_the_kernel(kernelized):
    kernelized(X).sum().backward()
    assert kernelized[0].weight.grad.tolist() == [200, 200, 200]


def test_moving_and_casting(kernelized):
    assert kernelized.to(torch.float64)(X.double()).dtype == torch.float64
    assert kernelized.half().eval()[0].weight.dtype == torch.float16


def test_a_kernelized_model_is_freed_by_del(scaled):
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    gc.disable()
    try:
        model = kernelize(nn.Sequential(Scale(), Scale()), mode=Mode.INFERENCE)
        model(X)
        references = [weakref.ref(model), *(weakref.ref(module) for module in model)]
        del model
        assert [reference() for reference in references] == [None, None, None]
    finally:
        gc.enable()


def test_classes_that_register_their_subclasses_do_not_see_ours(scaled):
    registered = []

    class Registry(type):
        def __new__(cls, name, bases, namespace, key=None):
            registered.append(key)
            return super().__new__(cls, name, bases, namespace)

        def __init__(cls, name, bases, namespace, key=None):
            super().__init__(name, bases, namespace)
            registered.append(key)

    class Registering(Scale):
        def __init_subclass__(cls, key=None, **kwargs):
            super().__init_subclass__(**kwargs)
            registered.append(key)

    class Registered(Registering, key="one"):
        pass

    class Slotted(Registering, key="two"):
        __slots__ = ("extra",)

    class OfRegistry(Scale, metaclass=Registry, key="three"):
        pass

    before = registered.copy()
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    for cls in (Registered, Slotted, OfRegistry):
        module = cls()
        parametrize.register_parametrization(module, "weight", nn.Identity())
        del registered[len(before) :]  # torch derives a class too
        assert kernelize(module, mode=Mode.INFERENCE)(X).tolist() == [20, 20, 20]
        assert unkernelize(module)(X).tolist() == [2, 2, 2]
        assert registered == before


def test_a_class_that_forbids_subclasses(scaled):
    class Final(type):
        def __new__(cls, name, bases, namespace):
            if any(isinstance(base, Final) for base in bases):
                raise TypeError("it is final")
            return super().__new__(cls, name, bases, namespace)

    class Sealed(Scale, metaclass=Final):
        __slots__ = ("extra",)

    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    assert kernelize(Sealed(), mode=Mode.INFERENCE)(X).tolist() == [20, 20, 20]


def test_generic_and_abstract_classes(scaled):
    import abc
    from typing import Generic, TypeVar

    T = TypeVar("T")

    class Abstract(Scale, abc.ABC):
        @abc.abstractmethod
        def size(self): ...

    class Concrete(Abstract, Generic[T]):
        def size(self):
            return 3

    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    module = kernelize(Concrete[int](), mode=Mode.INFERENCE)
    assert module(X).tolist() == [20, 20, 20]
    assert module.size() == 3
    assert isinstance(module, Abstract)


def test_super_calls_and_slots(scaled):
    class Slotted(Scale):
        __slots__ = ("extra",)

        def __init__(self):
            super().__init__()
            self.extra = 1

    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    module = kernelize(Slotted(), mode=Mode.INFERENCE)
    assert module(X).tolist() == [20, 20, 20]
    assert module.extra == 1
