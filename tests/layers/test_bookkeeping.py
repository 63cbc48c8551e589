"""What kernelize leaves behind: nothing on classes of others, nothing that keeps them alive."""

import gc
import sys
import weakref
from types import ModuleType

import pytest
import torch
from layers.models import Scale
from torch import nn
from torch.nn.utils import parametrize

from kernels_core import Mode, kernelize, unkernelize

X = torch.ones(3)
MODE = Mode.INFERENCE | Mode.TORCH_COMPILE


@pytest.fixture
def mapping(scaled):
    return {"Scale": {"cpu": scaled("Times10")}}


class AddOne(nn.Module):
    def forward(self, weight):
        return weight + 1


def test_nothing_is_stored_on_a_class(mapping):
    class Local(Scale):
        pass

    before = [dict(vars(cls)) for cls in (Local, Scale, nn.Module)]
    unkernelize(kernelize(nn.Sequential(Local(), Scale()), mode=MODE, mapping=mapping))
    assert [dict(vars(cls)) for cls in (Local, Scale, nn.Module)] == before


def test_nothing_is_stored_on_a_class_that_torch_made(mapping):
    module = Scale()
    parametrize.register_parametrization(module, "weight", AddOne())
    cls = type(module)
    before = dict(vars(cls))
    kernelize(module, mode=MODE, mapping=mapping)
    assert type(unkernelize(module)) is cls
    assert dict(vars(cls)) == before


def test_a_metaclass_that_forbids_attributes_is_no_obstacle(mapping):
    class Frozen(type):
        def __setattr__(cls, name, value):
            if not name.startswith("__"):
                raise AttributeError(f"{cls.__name__} is frozen")
            super().__setattr__(name, value)

    class Local(Scale, metaclass=Frozen):
        pass

    assert kernelize(Local(), mode=MODE, mapping=mapping)(X).tolist() == [20, 20, 20]


@pytest.mark.parametrize("parametrized", [False, True])
@pytest.mark.parametrize("undone", [False, True])
def test_a_class_of_a_function_is_freed(mapping, parametrized, undone):
    def use():
        class Local(Scale):
            def __init__(self):
                super().__init__()
                Local.last = self  # a class may refer to its instances

        module = Local()
        if parametrized:
            parametrize.register_parametrization(module, "weight", AddOne())
        kernelize(module, mode=MODE, mapping=mapping)(X)
        generated = type(module)
        if undone:
            unkernelize(module)
        return weakref.ref(Local), weakref.ref(generated)

    references = use()
    gc.collect()
    assert [reference() for reference in references] == [None, None]


@pytest.fixture
def library(monkeypatch):
    """An imported module with a layer."""
    module = ModuleType("library_with_a_layer")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    define(module)
    return module


def define(module):
    source = "from layers.models import Scale\n\nclass Layer(Scale):\n    pass\n"
    exec(source, module.__dict__)


def test_a_class_that_was_defined_again_is_freed(mapping, library):
    kernelize(library.Layer(), mode=MODE, mapping=mapping)
    reference = weakref.ref(library.Layer)
    define(library)  # as importlib.reload does, and a cell of a notebook that is run again
    gc.collect()
    assert reference() is None
    assert kernelize(library.Layer(), mode=MODE, mapping=mapping)(X).tolist() == [20, 20, 20]


def test_a_module_that_is_gone_takes_its_classes_along(mapping, library):
    kernelize(library.Layer(), mode=MODE, mapping=mapping)
    reference = weakref.ref(library.Layer)
    del sys.modules[library.__name__]
    vars(library).clear()
    gc.collect()
    assert reference() is None


def test_models_of_one_class_are_compiled_once(mapping, library):
    torch.compiler.reset()
    compilations = []

    def count(graph, example_inputs):
        compilations.append(graph)
        return graph.forward

    for _ in range(3):
        model = kernelize(nn.Sequential(library.Layer()), mode=MODE, mapping=mapping)
        assert torch.compile(model, backend=count)(X).tolist() == [20, 20, 20]
        del model
        gc.collect()
    assert len(compilations) == 1
