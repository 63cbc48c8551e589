"""Marking layers and functions as extensible does not change what they do."""

import copy
import inspect
import pickle
import sys

import pytest
import torch
from torch import nn

import kernels_core
from kernels_core import (
    Mode,
    kernelize,
    register_kernel_mapping,
    replace_kernel_forward_from_hub,
    unkernelize,
    use_kernel_forward_from_hub,
    use_kernelized_func,
)

X = torch.ones(2)


@use_kernel_forward_from_hub("double")
def double(x: torch.Tensor, *, times: int = 1) -> torch.Tensor:
    """Double a tensor."""
    return 2 * times * x


@use_kernel_forward_from_hub("double")
def double_too(x: torch.Tensor, *, times: int = 1) -> torch.Tensor:
    return 2 * times * x


@use_kernelized_func(double, double_too)
class Owner(nn.Module):
    def __init__(self, size: int, *, bias: bool = False):
        super().__init__()
        self.linear = nn.Linear(size, size, bias=bias)
        self.wanted = True

    def forward(self, x):
        return double(x) + double_too(x)


@use_kernelized_func(double)
class OtherOwner(nn.Module):
    def forward(self, x):
        return double(x)


@pytest.fixture(autouse=True)
def _undo_functions():
    yield
    unkernelize(Owner(1))


@pytest.fixture
def tenfold(make_kernel):
    return make_kernel(
        """
        class Tenfold(nn.Module):
            def forward(self, x, *, times=1):
                return 10 * times * x
        """
    )("Tenfold")


def test_a_decorated_class_stays_itself():
    class Layer(nn.Module):
        def forward(self, x):
            return x

    assert use_kernel_forward_from_hub("Layer")(Layer) is Layer
    assert Layer.kernel_layer_name == "Layer"
    assert Layer.kernel_condition is None
    assert Layer()(X) is X


def test_a_condition_is_found_on_the_class_and_not_bound():
    class Layer(nn.Module):
        pass

    replace_kernel_forward_from_hub(Layer, "Layer", lambda module: module is None)
    assert Layer().kernel_condition(None) is True


@pytest.mark.parametrize("target", [7, "Layer", int, torch.ones(1)])
def test_only_modules_and_functions_can_be_extensible(target):
    with pytest.raises(TypeError, match=r"subclass of torch\.nn\.Module or a function"):
        use_kernel_forward_from_hub("Layer")(target)


@pytest.mark.parametrize("name", ["", None, 7, nn.Linear])
def test_the_name_is_a_string(name):
    with pytest.raises(TypeError, match="layer name must be a non-empty string"):
        use_kernel_forward_from_hub(name)
    with pytest.raises(TypeError, match="layer name must be a non-empty string"):
        replace_kernel_forward_from_hub(nn.Linear, name)


def test_the_condition_is_callable():
    with pytest.raises(TypeError, match="condition must be callable"):
        use_kernel_forward_from_hub("Layer", condition=True)
    with pytest.raises(TypeError, match="condition must be callable"):
        replace_kernel_forward_from_hub(nn.Linear, "Layer", condition=True)


def test_a_decorated_class_may_have_a_condition(tenfold):
    @use_kernel_forward_from_hub("double", condition=lambda module: module.wanted)
    class Doubling(nn.Module):
        def __init__(self, wanted):
            super().__init__()
            self.wanted = wanted

        def forward(self, x, *, times=1):
            return 2 * times * x

    model = nn.Sequential(Doubling(True), Doubling(False))
    kernelize(model, mode=Mode.INFERENCE, device="cpu", mapping={"double": {"cpu": tenfold}})
    assert [module(X).tolist() for module in model] == [[10, 10], [2, 2]]


@pytest.mark.parametrize("marker", ["", "/, "])
def test_a_function_keeps_how_it_may_be_called(make_kernel, marker):
    namespace = {"use_kernel_forward_from_hub": use_kernel_forward_from_hub}
    exec(
        f"@use_kernel_forward_from_hub('combine')\n"
        f"def combine(x, {marker}*, times=1): return x, times",
        namespace,
    )
    combine = namespace["combine"]
    assert combine(X, times=3) == (X, 3)
    assert str(inspect.signature(combine)) == f"(x, {marker}*, times=1)"

    @use_kernelized_func(combine)
    class User(nn.Module):
        pass

    kernel = make_kernel(
        f"class Swapped(nn.Module):\n    def forward(self, x, {marker}*, times=1): return times, x"
    )
    kernelize(
        User(),
        mode=Mode.INFERENCE,
        device="cpu",
        use_fallback=False,
        mapping={"combine": {"cpu": kernel("Swapped")}},
    )
    assert combine(X, times=3) == (3, X)


def test_a_function_becomes_a_module_that_runs_it():
    assert isinstance(double, nn.Module)
    assert double(X, times=2).tolist() == [4, 4]
    assert double.__name__ == "double"
    assert double.__doc__ == "Double a tensor."
    assert str(inspect.signature(double)) == str(inspect.signature(double.__wrapped__))
    assert "extensible function" in repr(double)
    assert "double" in repr(double)


def test_a_function_is_one_object_when_copied_or_pickled():
    assert copy.copy(double) is double
    assert copy.deepcopy(double) is double
    assert pickle.loads(pickle.dumps(double)) is double


def test_functions_are_attached_but_no_submodules():
    owner = Owner(2, bias=True)
    assert list(owner._kernel_funcs.values()) == [double, double_too]
    assert [name for name, _ in owner.named_modules()] == ["", "linear"]
    assert list(owner.state_dict()) == ["linear.weight", "linear.bias"]
    assert list(inspect.signature(Owner).parameters) == ["size", "bias"]


def test_only_extensible_functions_can_be_attached():
    with pytest.raises(kernels_core.errors.NotExtensibleError, match="not an extensible function"):
        use_kernelized_func(len)
    with pytest.raises(TypeError, match=r"subclass of torch\.nn\.Module"):
        use_kernelized_func(double)(int)


def test_kernelizing_an_owner_sets_its_functions_for_the_whole_process(tenfold):
    register_kernel_mapping({"double": {"cpu": tenfold}})
    owner, other = Owner(2), OtherOwner()
    kernelize(owner, mode=Mode.INFERENCE)
    assert owner(X).tolist() == [20, 20]
    assert other(X).tolist() == [10, 10]
    assert double(X, times=3).tolist() == [30, 30]
    planned = kernels_core.plan(owner, mode=Mode.INFERENCE)
    assert {row.note for row in planned.rows} == {"one function for the whole process"}
    rows = kernels_core.report(owner).rows
    assert [row.class_name for row in rows] == ["double", "double_too"]
    assert all("one function for the whole process" in row.note for row in rows)
    register_kernel_mapping({}, inherit_mapping=False)
    kernelize(other, mode=Mode.INFERENCE, device="cpu")
    assert owner(X).tolist() == [12, 12], "the last call decided for double, not for double_too"
    unkernelize(owner)
    assert owner(X).tolist() == [4, 4]


def test_a_kernelized_function_is_still_one_object_when_copied_or_pickled(tenfold):
    register_kernel_mapping({"double": {"cpu": tenfold}})
    owner = kernelize(Owner(2), mode=Mode.INFERENCE)
    assert copy.deepcopy(owner)._kernel_funcs["double"] is double
    assert pickle.loads(pickle.dumps(owner))._kernel_funcs["double"] is double
    assert copy.copy(double) is double


def test_a_functions_condition_is_checked_for_each_owner(tenfold):
    @use_kernel_forward_from_hub("double", condition=lambda owner: owner.wanted)
    def conditional(x, *, times=1):
        return 2 * times * x

    @use_kernelized_func(conditional)
    class ConditionalOwner(Owner):
        pass

    register_kernel_mapping({"double": {"cpu": tenfold}})
    owner = kernelize(ConditionalOwner(2), mode=Mode.INFERENCE)
    assert conditional(X).tolist() == [10, 10]
    owner.wanted = False
    kernelize(owner, mode=Mode.INFERENCE)
    assert conditional(X).tolist() == [2, 2]


def test_of_several_owners_those_count_whose_condition_holds(tenfold):
    @use_kernel_forward_from_hub("double", condition=lambda owner: owner.wanted)
    def conditional(x, *, times=1):
        return 2 * times * x

    @use_kernelized_func(conditional)
    class ConditionalOwner(Owner):
        pass

    register_kernel_mapping({"double": {"cpu": tenfold}})
    model = nn.Sequential(ConditionalOwner(2), ConditionalOwner(2))
    model[0].wanted = False
    kernelize(model, mode=Mode.INFERENCE)
    assert conditional(X).tolist() == [10, 10], "one object: the owner that wants it has it"
    model[1].wanted = False
    kernelize(model, mode=Mode.INFERENCE)
    assert conditional(X).tolist() == [2, 2]
    rows = {row.class_name: row.reason for row in kernels_core.report(model).rows}
    assert rows["conditional"] == "its condition is False"


def test_functions_are_on_the_device_of_their_owners(tenfold):
    register_kernel_mapping({"double": {"cpu": tenfold}})
    model = nn.Sequential(nn.Linear(1, 1, device="meta"), Owner(2))
    kernelize(model, mode=Mode.INFERENCE)
    assert {row.device for row in kernels_core.report(model).rows} == {"cpu"}
    assert double(X).tolist() == [10, 10]


def test_two_functions_of_one_name_are_both_attached():
    def other():
        @use_kernel_forward_from_hub("double")
        def double(x, *, times=1):
            return x

        return double

    namesake = other()

    @use_kernelized_func(double, namesake)
    class Both(nn.Module):
        pass

    assert list(Both()._kernel_funcs.values()) == [double, namesake]


@pytest.mark.parametrize("protocol", [2, 5])
def test_pickles_load_where_the_function_is_not_extensible(monkeypatch, protocol):
    data = pickle.dumps(Owner(1), protocol)
    plain = double.__wrapped__
    monkeypatch.setattr(sys.modules[__name__], "double", plain)
    assert pickle.loads(data)._kernel_funcs["double"] is plain
