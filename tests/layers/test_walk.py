"""Which modules of a tree are found, on which device, and what repeated calls make of changes."""

import pytest
import torch
from accelerate.hooks import ModelHook, SequentialHook, add_hook_to_module
from layers.models import Scale
from torch import nn

import kernels_core
from kernels_core import Mode, kernelize, register_kernel_mapping, use_kernel_forward_from_hub
from kernels_core.errors import MissingDeviceError

X = torch.ones(3)


class OtherScale(Scale):
    pass


@pytest.fixture(autouse=True)
def _mapping(scaled):
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})


def decisions(model, **arguments):
    """Name -> kernel of every extensible module."""
    kernelize(model, mode=Mode.INFERENCE, **arguments)
    return {name: row.kernel for name, row in kernels_core.report(model).modules()}


def test_rows_come_in_the_order_of_the_model():
    class A(Scale):
        pass

    class B(Scale):
        pass

    model = nn.ModuleList([nn.ModuleList([B(), Scale()]), A(), nn.ModuleList([Scale()])])
    kernelize(model, mode=Mode.INFERENCE)
    assert [row.class_name.rpartition(".")[2] for row in kernels_core.report(model).rows] == [
        "B",
        "Scale",
        "A",
    ]


@pytest.mark.parametrize("arguments", [{}, {"device": "cpu"}], ids=["own device", "given device"])
def test_what_changed_since_the_last_call_is_noticed(arguments):
    model = nn.ModuleList(nn.ModuleList([Scale(), OtherScale()]) for _ in range(4))
    assert set(decisions(model, **arguments).values()) == {"Times10"}
    model[1].append(Scale())
    model[2][0].to("meta")
    own = model[3][0].forward
    model[3][0].forward = lambda x: own(x)
    model[3][1].forward = lambda x: 5 * x
    moved = "Times10" if arguments else None
    expected = dict.fromkeys(("0.0", "0.1", "1.0", "1.1", "1.2", "2.1", "3.0"), "Times10")
    assert decisions(model, **arguments) == {**expected, "2.0": moved, "3.1": None}
    kernels_core.unkernelize(model)
    assert {type(module) for module in model.modules()} == {nn.ModuleList, Scale, OtherScale}


def test_children_that_are_none_are_skipped():
    model = nn.Sequential(Scale())
    model.register_module("nothing", None)
    model.register_parameter("no_weight", None)
    nothing_first = Scale()
    nothing_first._parameters = {"absent": None, **nothing_first._parameters}
    model.append(nothing_first)
    assert list(decisions(model).values()) == ["Times10", "Times10"]


def test_children_that_are_none_are_skipped_in_the_search_for_a_device(make_kernel):
    @use_kernel_forward_from_hub("Twice")
    class Twice(nn.Module):
        def forward(self, x):
            return 2 * x

    kernel = make_kernel(
        "class Thrice(nn.Module):\n    def forward(self, x): return 3 * x", name="other"
    )
    block = nn.Sequential()
    block.register_module("nothing", None)
    block.append(Twice())
    block.append(Scale())
    mapping = {"Twice": {"cpu": kernel("Thrice")}}
    assert decisions(nn.ModuleList([block]), mapping=mapping)["0.1"] == "Thrice"


def test_a_module_that_contains_itself_is_walked_once():
    for device, kernel in (("cpu", "Times10"), ("meta", None)):
        model = nn.Sequential(Scale(device))
        model[0].outer = model
        assert decisions(model) == {"0": kernel}
        del model[0].outer


def test_modules_that_are_equal_are_one_as_for_torch():
    class Equal(Scale):
        def __eq__(self, other):
            return type(other) is type(self)

        def __hash__(self):
            return 1

    model = nn.Sequential(Equal(), Equal())
    assert len(list(model.modules())) == 2
    assert [row.count for row in kernels_core.plan(model, mode=Mode.INFERENCE).rows] == [1]


def test_of_two_modules_on_the_meta_device_one_may_be_offloaded():
    hook = ModelHook()
    hook.execution_device = "cpu"
    offloaded = nn.Sequential(nn.Sequential(Scale("meta")))
    model = nn.Sequential(Scale("meta"), offloaded, Scale("meta"))
    add_hook_to_module(offloaded, SequentialHook(ModelHook(), hook))
    elsewhere = ModelHook()
    elsewhere.execution_device = "meta"
    model.append(add_hook_to_module(Scale(), elsewhere))
    expected = {"0": None, "1.0.0": "Times10", "2": None, "3": "Times10"}
    assert decisions(model) == expected, "only what is on the meta device is offloaded"


def test_buffers_determine_the_device_too():
    class Buffered(Scale):
        def __init__(self, device):
            super().__init__(device)
            weight = self.weight.data
            del self.weight
            self.register_buffer("none", None)
            self.register_buffer("weight", weight)

    assert decisions(nn.Sequential(Buffered("cpu"), Buffered("meta"))) == {
        "0": "Times10",
        "1": None,
    }


def traced(part):
    return torch.jit.trace(part, X)


def exported(part):
    return torch.export.export(part, (X,)).module()


class Proxy(nn.Module):
    """Gets its children through `__getattr__`."""

    def __init__(self, part):
        super().__init__()
        self.__dict__["hidden"] = {"part": part}
        del self.__dict__["_modules"]

    def __getattr__(self, name):
        return self.__dict__["hidden"] if name == "_modules" else super().__getattr__(name)


class Property(nn.Module):
    _modules = property(
        lambda self: self.__dict__["kept"], lambda self, value: self.__dict__.update(kept=value)
    )

    def __init__(self, part):
        super().__init__()
        self._modules["part"] = part


class Lazy(nn.Module):
    """Has a child that only `children` knows."""

    def __init__(self, part):
        super().__init__()
        self.__dict__["hidden"] = part

    def named_children(self):
        yield "part", self.hidden
        yield "nothing", None

    def forward(self, x):
        return self.hidden(x)


class Listing(Lazy):
    named_children = nn.Module.named_children

    def named_modules(self, memo=None, prefix="", remove_duplicate=True):
        yield from super().named_modules(memo, prefix, remove_duplicate)
        yield from self.hidden.named_modules(memo, f"{prefix}.hidden", remove_duplicate)


@pytest.mark.parametrize(
    "make", [torch.jit.script, traced, exported, torch.fx.symbolic_trace], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("arguments", [{}, {"device": "cpu"}], ids=["own device", "given device"])
def test_a_part_that_was_turned_into_a_graph_is_left_alone(make, arguments):
    part = make(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).eval())
    model = nn.ModuleDict({"part": part, "scale": Scale()})
    expected = part(X)
    assert decisions(model, **arguments) == {"scale": "Times10"}
    assert torch.equal(part(X), expected)
    kernelize(part, mode=Mode.INFERENCE)
    kernelize(nn.Sequential(part), mode=Mode.INFERENCE)


def test_a_layer_without_tensors_is_where_the_traced_part_beside_it_is(make_kernel):
    @use_kernel_forward_from_hub("Twice")
    class Twice(nn.Module):
        def forward(self, x):
            return 2 * x

    kernel = make_kernel("class Thrice(nn.Module):\n    def forward(self, x): return 3 * x")
    model = nn.Sequential(nn.Sequential(Twice(), traced(nn.Linear(3, 3))))
    assert decisions(model, mapping={"Twice": {"cpu": kernel("Thrice")}}) == {"0.0": "Thrice"}


@pytest.mark.parametrize("parent", [Proxy, Property, Lazy, Listing])
@pytest.mark.parametrize("arguments", [{}, {"device": "cpu"}], ids=["own device", "given device"])
def test_children_are_found_by_what_the_module_offers(parent, arguments):
    shared = Scale()
    model = nn.Sequential(parent(nn.Sequential(shared)), nn.Sequential(parent(shared), Scale()))
    kernelize(model, mode=Mode.INFERENCE, **arguments)
    assert [row.count for row in kernels_core.report(model).rows] == [2]
    assert type(shared).forward is not Scale.forward
    kernels_core.unkernelize(model)
    assert type(shared) is Scale


@pytest.mark.parametrize("parent", [nn.Sequential, Proxy, Property, Lazy, Listing])
def test_a_device_is_searched_below_what_contains_itself(parent):
    model = nn.Sequential()
    model.append(parent(model))
    with pytest.raises(MissingDeviceError):
        kernelize(model, mode=Mode.INFERENCE)
