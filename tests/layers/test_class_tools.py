"""Tools that look at the class of a module."""

import pytest
import torch
from layers.models import Scale
from torch import nn
from torch.nn.utils import parametrize, prune

from kernels_core import (
    Mode,
    kernel_of,
    kernelize,
    original_class,
    replace_kernel_forward_from_hub,
    unkernelize,
)

X = torch.ones(3)


@pytest.fixture
def module(scaled):
    mapping = {"Scale": {"cpu": scaled("Times10")}}
    return kernelize(Scale(), mode=Mode.INFERENCE, mapping=mapping)


class Nothing(nn.Module):
    def forward(self, weight):
        return weight


def test_the_original_class_is_the_one_that_unkernelize_gives_back(module):
    assert original_class(module) is Scale
    assert type(module) is not Scale
    assert type(unkernelize(module)) is original_class(module) is Scale


def test_the_original_class_of_a_parametrized_module_is_parametrized(module):
    parametrize.register_parametrization(module, "weight", Nothing())
    original = original_class(module)
    assert original.__name__ == "ParametrizedScale"
    assert original_class(unkernelize(module)).__mro__[1] is Scale


def test_fx_traces_the_kernel(module):
    traced = torch.fx.symbolic_trace(module)
    assert traced(X).tolist() == [20, 20, 20]


def test_pruning_keeps_the_kernel(module):
    with torch.no_grad():
        module.weight[0] = 1
    prune.l1_unstructured(module, "weight", amount=1)
    assert kernel_of(module) is not None
    assert module(X).tolist() == [0, 20, 20]


@pytest.fixture
def marked_linear():
    """torch's own class, marked as some programs do."""
    replace_kernel_forward_from_hub(nn.Linear, "Linear")
    yield nn.Linear
    del nn.Linear.kernel_layer_name, nn.Linear.kernel_condition


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_dynamic_quantization_comes_before_kernelize(marked_linear, make_kernel):
    kernel = make_kernel(
        """
        class Linear(nn.Module):
            def forward(self, input):
                return nn.functional.linear(input, self.weight, self.bias) + 100
        """
    )
    mapping = {"Linear": {"cpu": kernel("Linear")}}
    quantize = torch.ao.quantization.quantize_dynamic
    model = nn.Sequential(nn.Linear(3, 3))
    kernelize(model, mode=Mode.INFERENCE, mapping=mapping)
    assert isinstance(quantize(model, {nn.Linear})[0], nn.Linear), "found by its exact class only"
    assert original_class(model[0]) is nn.Linear
    assert not isinstance(quantize(unkernelize(model), {nn.Linear})[0], nn.Linear)
