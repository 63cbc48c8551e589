"""What kernelize leaves behind: nothing on classes of others, nothing that keeps them alive."""

import gc
import sys
import weakref
from types import FunctionType, ModuleType
from typing import ForwardRef

import pytest
import torch
from layers.models import Scale
from torch import nn
from torch.nn.utils import parametrize

from kernels_core import Mode, kernelize, report, unkernelize

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


LIBRARY = """
from typing import Annotated, Generic, TypeVar
import abc
import torch
from torch import nn
from layers.models import Scale as Base
from kernels_core import (
    replace_kernel_forward_from_hub, use_kernel_forward_from_hub, use_kernelized_func
)


class Scale(Base):
    registered = []

    def __init_subclass__(cls, **arguments):
        super().__init_subclass__(**arguments)
        Scale.registered.append(cls)

    def forward(self, x):
        return super().forward(x)


replace_kernel_forward_from_hub(Scale, "Scale")


class Slotted(Scale):
    __slots__ = ("extra",)


class OfABC(Scale, abc.ABC):
    pass


class Typed(Scale, Generic[TypeVar("T")]):
    pass


@use_kernel_forward_from_hub("Float32", condition=lambda module: True)
class Conditional(Base):
    def forward(self, x):
        return self.weight * x


@use_kernel_forward_from_hub("double")
def double(x):
    return x + x


@use_kernelized_func(double)
class Doubling(Scale):
    def forward(self, x):
        return double(x)
"""


def reachable(name, start):
    """What users' objects hold, by its path: what it is, and where it was defined."""
    found, seen, pending = {}, set(), [("", start)]
    while pending:
        path, one = pending.pop()
        described = one if isinstance(one, (type, FunctionType)) else type(one)
        found[path] = f"{described.__module__}.{described.__qualname__}"
        is_foreign = isinstance(one, (type, FunctionType)) and one.__module__ != name
        if isinstance(one, (ModuleType, weakref.ref, ForwardRef)) or is_foreign or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, dict):
            parts = one.items()
        elif isinstance(one, type):
            parts = [*vars(one).items(), ("bases", one.__bases__), ("class", type(one))]
        else:
            for made_when_asked_for in ("__dict__", "__annotations__"):
                getattr(one, made_when_asked_for, None)
            parts = enumerate(gc.get_referents(one))
        pending.extend((f"{path}.{key}", part) for key, part in parts)
    return found


def test_nothing_of_ours_is_reachable_from_what_users_have(make_kernel, monkeypatch):
    kernel = make_kernel(
        """
        from typing import Annotated

        class Times10(nn.Module):
            def forward(self, x): return 10 * self.weight * x

        class Float32(nn.Module):
            weight: Annotated[torch.Tensor, torch.float32]
            def forward(self, x): return 10 * self.weight * x

        class Double(nn.Module):
            def forward(self, x): return 10 * x
        """
    )
    names = {"Scale": "Times10", "Float32": "Float32", "double": "Double"}
    mapping = {name: {"cpu": kernel(layer)} for name, layer in names.items()}
    library = ModuleType("library_of_a_user")
    monkeypatch.setitem(sys.modules, library.__name__, library)
    exec(LIBRARY, library.__dict__)
    classes = [getattr(library, name) for name in ("Slotted", "OfABC", "Typed", "Conditional")]

    def make():
        return nn.Sequential(*(cls() for cls in (*classes, library.Scale, library.Doubling)))

    model, sibling = make(), make()
    hook = model[0].register_forward_hook(lambda module, arguments, output: None)
    users = {"library": dict(vars(library)), "model": model, "sibling": sibling, "hook": hook}
    torchs = {"Module": dict(vars(nn.Module)), "module": dict(vars(nn.modules.module))}
    before = reachable(library.__name__, users | torchs)
    for mode in (Mode.INFERENCE, Mode.TRAINING):
        kernelize(model, mode=mode, mapping=mapping)
        assert model[:-1](X)[0] >= 10**5
        report(model)
        unkernelize(model)
    torchs = {"Module": dict(vars(nn.Module)), "module": dict(vars(nn.modules.module))}
    assert reachable(library.__name__, users | torchs) == before
