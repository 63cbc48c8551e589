"""Functions that Hugging Face `kernels` made extensible are one object each, like ours."""

import copy
import io
import pickle
import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from kernels_core import Mode, kernelize, plan, report, unkernelize, use_kernelized_func

pytest.importorskip("kernels", reason="needs Hugging Face kernels: pip install kernels")

X = torch.ones(2)

SOURCE = """
import kernels
import torch
from torch import nn


@kernels.use_kernel_forward_from_hub("double")
def double(x):
    return 2 * x


@kernels.use_kernelized_func(double)
class Owner(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return double(self.weight * x)
"""


@pytest.fixture
def models(monkeypatch):
    """A module with a function and a model that uses it, as a library would have them."""
    module = ModuleType("library_of_the_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(SOURCE, module.__dict__)
    return module


@pytest.fixture
def mapping(make_kernel):
    kernel = make_kernel("class Tenfold(nn.Module):\n    def forward(self, x): return 10 * x")
    return {"double": {"cpu": kernel("Tenfold")}}


def test_they_are_found_and_kernelized(models, mapping):
    owner = kernelize(models.Owner(), mode=Mode.INFERENCE, mapping=mapping)
    assert owner(X).tolist() == [10, 10]
    assert report(owner).rows[0].kernel == "Tenfold"
    assert unkernelize(owner)(X).tolist() == [2, 2]


def test_models_that_hold_them_are_copied_and_pickled(models, mapping):
    owner = kernelize(models.Owner(), mode=Mode.INFERENCE, mapping=mapping)
    buffer = io.BytesIO()
    torch.save(owner, buffer)
    buffer.seek(0)
    copies = [
        copy.deepcopy(owner),
        pickle.loads(pickle.dumps(owner)),
        torch.load(buffer, weights_only=False),
    ]
    for copied in copies:
        assert copied._kernel_funcs["double"] is models.double
        assert copied(X).tolist() == [10, 10]
    unkernelize(copies[0])
    assert owner(X).tolist() == [2, 2], "one function for the whole process"
    assert pickle.loads(pickle.dumps(owner))._kernel_funcs["double"] is models.double


def test_a_plan_changes_nothing_about_them(models, mapping):
    before = dict(type(models.double).__dict__)
    planned = plan(models.Owner(), mode=Mode.INFERENCE, mapping=mapping)
    assert dict(type(models.double).__dict__) == before
    planned.apply()
    assert models.double(X).tolist() == [10, 10]


def test_one_that_has_no_name_stays_as_it_is(models, mapping):
    function = models.double
    del models.double
    owner = kernelize(models.Owner(), mode=Mode.INFERENCE, mapping=mapping)
    assert function(X).tolist() == [10, 10]
    with pytest.raises(AttributeError, match="pickle"):
        pickle.dumps(owner)


def test_one_whose_module_is_gone_stays_as_it_is(models, mapping):
    sys.modules.pop(models.__name__)
    kernelize(models.Owner(), mode=Mode.INFERENCE, mapping=mapping)
    assert models.double(X).tolist() == [10, 10]


def test_without_a_name_of_its_own_it_goes_by_its_layers(models, mapping):
    @use_kernelized_func(models.double)
    class Ours(nn.Module):
        pass

    assert Ours()._kernel_funcs == {"double": models.double}
