"""The rules for kernel layers, each broken by one edit."""

import sys

import pytest
import torch
from torch import nn

import kernels_core
from kernels_core import (
    Mode,
    errors,
    kernelize,
    register_kernel_mapping,
    use_kernel_forward_from_hub,
)


@use_kernel_forward_from_hub("Adopting")
class Adopting(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x, y=1, *, scale=2, **rest):
        return x


def kernelize_with(kernel):
    register_kernel_mapping({"Adopting": {"cpu": kernel("Layer")}})
    return kernelize(Adopting(), mode=Mode.INFERENCE)


BROKEN_LAYERS = {
    "module": ("class Layer: pass", "must be a subclass of torch.nn.Module"),
    "forward": ("class Layer(nn.Module): pass", "defines no forward"),
    "constructor": (
        """
        class Layer(nn.Module):
            def __init__(self):
                super().__init__()

            def forward(self, x, y=1, *, scale=2, **rest):
                return x
        """,
        "has a constructor",
    ),
    "members": (
        """
        class Layer(nn.Module):
            def forward(self, x, y=1, *, scale=2, **rest):
                return self.helper(x)

            def helper(self, x):
                return x
        """,
        "has the member 'helper'",
    ),
    "members (inherited)": (
        """
        class Base(nn.Module):
            size = 3

        class Layer(Base):
            def forward(self, x, y=1, *, scale=2, **rest):
                return x
        """,
        "has the member 'size'",
    ),
    "flags": (
        """
        class Layer(nn.Module):
            can_torch_compile = "yes"

            def forward(self, x, y=1, *, scale=2, **rest):
                return x
        """,
        "must have a bool as can_torch_compile, got 'yes'",
    ),
    "exported": ("class Another(nn.Module): pass", "has no layer 'Layer'; its layers are: Another"),
}


@pytest.mark.parametrize("rule", BROKEN_LAYERS)
def test_a_layer_that_breaks_a_rule(make_kernel, rule):
    source, text = BROKEN_LAYERS[rule]
    with pytest.raises(errors.InvalidLayerError, match=text) as caught:
        kernelize_with(make_kernel(source))
    assert caught.value.rule == rule.partition(" ")[0]
    assert rule == "exported" or str(caught.value).startswith("Layer 'Layer' of ")
    assert "kernel" in caught.value.repository


def test_a_kernel_without_layers(make_repository):
    path = make_repository({"torch-cpu": {"__init__.py": "x = 1"}})
    from kernels_core import LocalLayerRepository

    with pytest.raises(errors.InvalidLayerError, match=r"has no layers: its __init__\.py must"):
        kernelize_with(lambda name: LocalLayerRepository(path, layer_name=name))


def test_a_layer_may_inherit_and_annotate(make_kernel):
    kernelized = kernelize_with(
        make_kernel(
            '''
            class Base(nn.Module):
                """A base with a documented annotation."""

                weight: torch.Tensor
                has_backward: bool = False

                def forward(self, x, y=1, *, scale=2, **rest):
                    return x + self.weight

            class Layer(Base):
                pass
            '''
        )
    )
    assert kernelized(torch.ones(1)).item() == 2
    assert kernelized.has_backward is False


SIGNATURES = {
    "(self, x, y=1, *, scale=2, **rest)": "",
    "(self, a, b=None, *, scale=0, **kwargs)": "",
    "(self, x=0, y=1, *, scale=2, **rest)": "",
    "(self, x, y=1, **rest)": "3 parameters instead of 4",
    "(self, x, y=1, z=1, *, scale=2, **rest)": "5 parameters instead of 4",
    "(self, x, y, *, scale=2, **rest)": "'y' has no default, where the original has one",
    "(self, x, y=1, *, factor=2, **rest)": "keyword-only parameter 'scale' is missing",
    "(self, x, y=1, scale=2, **rest)": "'scale' is positional or keyword instead of keyword-only",
    "(self, x, /, y=1, *, scale=2, **rest)": "'x' is positional-only instead of positional or",
    "(self, x, y=1, *rest, scale=2)": "'rest' is variadic positional instead of keyword-only",
}


@pytest.mark.parametrize("signature", SIGNATURES)
def test_signatures(make_kernel, signature):
    kernel = make_kernel(f"class Layer(nn.Module):\n    def forward{signature}: return x")
    difference = SIGNATURES[signature]
    if not difference:
        kernelize_with(kernel)
        return
    with pytest.raises(errors.SignatureMismatchError) as caught:
        kernelize_with(kernel)
    assert difference in str(caught.value)
    assert f"Kernel: forward{signature}; original: forward(self, x, y=1" in str(caught.value)


def test_the_order_of_keyword_only_parameters_does_not_matter(make_kernel):
    @use_kernel_forward_from_hub("Keywords")
    class Keywords(nn.Module):
        def forward(self, x, *, a, b):
            return x

    kernel = make_kernel("class Layer(nn.Module):\n    def forward(self, x, *, b, a): return a - b")
    register_kernel_mapping({"Keywords": {"cpu": kernel("Layer")}})
    module = kernelize(Keywords(), mode=Mode.INFERENCE, device="cpu", use_fallback=False)
    assert module(0, a=5, b=3) == 2


def test_a_positional_variadic_signature_can_be_replaced(make_kernel):
    @use_kernel_forward_from_hub("Variadic")
    def variadic(*tensors):
        return sum(tensors)

    from kernels_core import use_kernelized_func

    @use_kernelized_func(variadic)
    class User(nn.Module):
        pass

    kernel = make_kernel("class Layer(nn.Module):\n    def forward(self, *xs): return 10 * sum(xs)")
    register_kernel_mapping({"Variadic": {"cpu": kernel("Layer")}})
    kernelize(User(), mode=Mode.INFERENCE, device="cpu", use_fallback=False)
    assert variadic(1, 2) == 30


CONDITIONAL = """
from typing import Annotated


class OnlyFloat64(nn.Module):
    weight: Annotated[torch.Tensor, torch.float64, torch.float16]

    def forward(self, x, y=1, *, scale=2, **rest):
        return 64


class Even(nn.Module):
    weight: Annotated[torch.Tensor, lambda weight: weight.numel() % 2 == 0]

    def forward(self, x, y=1, *, scale=2, **rest):
        return 2


class AnyWeight(nn.Module):
    weight: torch.Tensor

    def forward(self, x, y=1, *, scale=2, **rest):
        return 1


class Narrower(AnyWeight):
    weight: Annotated[torch.Tensor, torch.float64]


class Unreadable(nn.Module):
    weight: "Annotated[NoSuchName, 3]"

    def forward(self, x, y=1, *, scale=2, **rest):
        return 0
"""


def adopting(size, dtype):
    module = Adopting()
    module.weight = nn.Parameter(torch.ones(size, dtype=dtype))
    return module


def test_a_kernel_with_conditions_is_chosen_only_where_they_hold(make_kernel):
    kernel = make_kernel(CONDITIONAL)
    by_mode = {
        Mode.INFERENCE: kernel("OnlyFloat64"),
        Mode.TRAINING: kernel("Even"),
        Mode.FALLBACK: kernel("AnyWeight"),
    }
    mapping = {"Adopting": {"cpu": by_mode}}
    model = nn.Sequential(
        adopting(3, torch.float64), adopting(2, torch.float32), adopting(3, torch.float32)
    )
    kernelize(model, mode=Mode.INFERENCE, mapping=mapping)
    assert [module(0) for module in model] == [64, 2, 1]
    rows = kernels_core.report(model).rows
    assert [(row.kernel, row.count) for row in rows] == [
        ("OnlyFloat64", 1),
        ("Even", 1),
        ("AnyWeight", 1),
    ]
    assert {(row.layer_name, row.class_name, row.device) for row in rows} == {
        ("Adopting", "Adopting", "cpu")
    }
    model[0].float()
    kernelize(model, mode=Mode.INFERENCE, mapping=mapping)
    assert [module(0) for module in model] == [1, 2, 1], "they are checked at each call"


def test_a_condition_may_narrow_a_member_of_the_base_class(make_kernel):
    model = nn.Sequential(adopting(3, torch.float64), adopting(3, torch.float32))
    mapping = {"Adopting": {"cpu": make_kernel(CONDITIONAL)("Narrower")}}
    kernelize(model, mode=Mode.INFERENCE, mapping=mapping)
    assert [module(5) for module in model] == [1, 5]


def test_without_another_candidate_the_forward_stays_and_the_report_says_why(make_kernel):
    kernel = make_kernel(CONDITIONAL)
    module = adopting(3, torch.float32)
    for name, reason in {
        "OnlyFloat64": "its weight is torch.float32, and torch.float64 or torch.float16",
        "Even": "its weight does not meet the condition",
    }.items():
        mapping = {"Adopting": {"cpu": kernel(name)}}
        kernelize(module, mode=Mode.INFERENCE, mapping=mapping)
        assert module(5) == 5
        assert reason in kernels_core.report(module).rows[0].reason
        with pytest.raises(ValueError, match="its weight"):
            kernelize(module, mode=Mode.INFERENCE, mapping=mapping, use_fallback=False)
    both = {Mode.INFERENCE: kernel("OnlyFloat64"), Mode.TRAINING: kernel("Even")}
    kernelize(module, mode=Mode.INFERENCE, mapping={"Adopting": {"cpu": both}})
    reason = kernels_core.report(module).rows[0].reason
    assert [part.partition(": ")[2][:10] for part in reason.split("; ")] == ["its weight"] * 2


OF_MODULE = """
from typing import Annotated

calls = []


def adds(module) -> bool:
    calls.append(module)
    module.shift = torch.ones(1)
    return torch.equal(module(torch.zeros(1)), torch.ones(1))


class Add(nn.Module):
    shift: torch.Tensor

    def forward(self: Annotated[nn.Module, adds], x):
        return 100 + x + self.shift


class Twice(nn.Module):
    def forward(self: "Annotated[Twice, lambda module: module.training]", x):
        return 2 * x


class Unreadable(nn.Module):
    def forward(self: "Annotated[NoSuchName, 3]", x):
        return x
"""


@use_kernel_forward_from_hub("Shifting")
class Shifting(nn.Module):
    def __init__(self, sign=1, noise=0.0):
        super().__init__()
        self.sign = sign
        self.register_buffer("shift", torch.full((3,), 5.0))
        self.dropout = nn.Dropout(noise)

    def forward(self, x):
        return self.dropout(x + self.sign * self.shift)


def kernels_of(model):
    return {(row.kernel, row.count) for row in kernels_core.report(model).rows}


def test_a_condition_on_the_module_compares_what_it_computes(make_kernel):
    kernel = make_kernel(OF_MODULE)
    mapping = {"Shifting": {"cpu": kernel("Add")}}
    model = nn.Sequential(*(Shifting(sign) for sign in (1, 1, -1, 1, 2, -1))).eval()
    state, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    kernelize(model, mode=Mode.INFERENCE, mapping=mapping)
    assert kernels_of(model) == {("Add", 3), (None, 3)}
    assert [int(module(torch.zeros(1))[0]) for module in model] == [105, 105, -5, 105, 10, -5]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])
    assert torch.equal(random, torch.get_rng_state())
    assert not any(module.training for module in model.modules())
    (reason,) = {row.reason for row in kernels_core.report(model).rows} - {""}
    assert reason.endswith("its forward does not meet the condition adds")
    with pytest.raises(ValueError, match="does not meet the condition adds"):
        kernelize(Shifting(-1), mode=Mode.INFERENCE, mapping=mapping, use_fallback=False)


def test_a_condition_on_the_module_is_asked_once_for_modules_with_equal_settings(make_kernel):
    repository = make_kernel(OF_MODULE)("Add")
    calls = sys.modules[repository.load().__module__].calls
    model = nn.Sequential(*(Shifting(sign) for sign in (3, 3, 3, 4, 3)))
    for _ in range(2):
        kernelize(model, mode=Mode.INFERENCE, mapping={"Shifting": {"cpu": repository}})
    assert [module.sign for module in calls] == [3, 4]


def test_a_condition_on_the_module_gets_a_copy_with_the_original_forward(make_kernel):
    kernel = make_kernel(OF_MODULE)
    module = Shifting()
    hooked = []
    module.register_forward_hook(lambda *given: hooked.append(given))
    kernelize(module, mode=Mode.INFERENCE, mapping={"Shifting": {"cpu": kernel("Twice")}})
    assert kernels_of(module) == {("Twice", 1)}
    with torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
        kernelize(module, mode=Mode.INFERENCE, mapping={"Shifting": {"cpu": kernel("Add")}})
    assert kernels_of(module) == {("Add", 1)}
    assert not hooked


def test_a_condition_on_the_module_gets_a_copy_without_its_parametrizations(make_kernel):
    class Doubled(nn.Module):
        def forward(self, shift):
            return 2 * shift

    module = Shifting()
    nn.utils.parametrize.register_parametrization(module, "shift", Doubled())
    kernelize(
        module, mode=Mode.INFERENCE, mapping={"Shifting": {"cpu": make_kernel(OF_MODULE)("Add")}}
    )
    assert kernels_of(module) == {("Add", 1)}
    assert int(module(torch.zeros(1))[0]) == 110


def test_what_training_adds_counts_although_the_module_is_not_in_training(make_kernel):
    mapping = {"Shifting": {"cpu": make_kernel(OF_MODULE)("Add")}}
    model = nn.Sequential(Shifting(noise=0.9999), Shifting()).eval()
    kernelize(model, mode=Mode.INFERENCE, mapping=mapping)
    assert kernels_of(model) == {("Add", 1), (None, 1)}


def test_a_module_that_cannot_be_called_for_a_condition_is_left_alone(make_kernel):
    module = Shifting(sign="?")
    kernelize(
        module, mode=Mode.INFERENCE, mapping={"Shifting": {"cpu": make_kernel(OF_MODULE)("Add")}}
    )
    (row,) = kernels_core.report(module).rows
    assert "cannot be called to check the condition adds (TypeError: " in row.reason


def test_a_condition_on_the_module_that_cannot_be_read_is_an_error(make_kernel):
    mapping = {"Shifting": {"cpu": make_kernel(OF_MODULE)("Unreadable")}}
    with pytest.raises(errors.InvalidLayerError, match="NoSuchName"):
        kernelize(Shifting(), mode=Mode.INFERENCE, mapping=mapping)


def test_conditions_that_cannot_be_read_are_an_error(make_kernel):
    kernel = make_kernel(CONDITIONAL)
    with pytest.raises(errors.InvalidLayerError, match="annotations of layer 'Unreadable'"):
        kernelize(
            adopting(1, torch.float32),
            mode=Mode.INFERENCE,
            mapping={"Adopting": {"cpu": kernel("Unreadable")}},
        )
