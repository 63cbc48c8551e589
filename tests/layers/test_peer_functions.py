"""Functions that the peer made extensible are one object each, like ours."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from kernels_core import Mode, kernelize, plan, report, unkernelize

peer = pytest.importorskip("kernels", reason="needs the peer: pip install kernels")

X = torch.ones(2)


@peer.use_kernel_forward_from_hub("double")
def double(x):
    return 2 * x


@peer.use_kernelized_func(double)
class Owner(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return double(self.weight * x)


@pytest.fixture
def mapping(make_kernel):
    kernel = make_kernel("class Tenfold(nn.Module):\n    def forward(self, x): return 10 * x")
    yield {"double": {"cpu": kernel("Tenfold")}}
    unkernelize(Owner())


def test_they_are_found_and_kernelized(mapping):
    owner = kernelize(Owner(), mode=Mode.INFERENCE, mapping=mapping)
    assert owner(X).tolist() == [10, 10]
    assert report(owner).rows[0].kernel == "Tenfold"
    assert unkernelize(owner)(X).tolist() == [2, 2]


def test_models_that_hold_them_are_copied_and_pickled(mapping):
    owner = kernelize(Owner(), mode=Mode.INFERENCE, mapping=mapping)
    buffer = io.BytesIO()
    torch.save(owner, buffer)
    buffer.seek(0)
    copies = [
        copy.deepcopy(owner),
        pickle.loads(pickle.dumps(owner)),
        torch.load(buffer, weights_only=False),
    ]
    for copied in copies:
        assert copied._kernel_funcs["double"] is double
        assert copied(X).tolist() == [10, 10]
    unkernelize(copies[0])
    assert owner(X).tolist() == [2, 2], "one function for the whole process"
    assert pickle.loads(pickle.dumps(owner))._kernel_funcs["double"] is double


def test_a_plan_changes_nothing_about_them(mapping):
    @peer.use_kernel_forward_from_hub("double")
    def local(x):
        return 2 * x

    @peer.use_kernelized_func(local)
    class LocalOwner(Owner):
        pass

    before = dict(type(local).__dict__)
    owner = LocalOwner()
    planned = plan(owner, mode=Mode.INFERENCE, mapping=mapping)
    assert dict(type(local).__dict__) == before
    planned.apply()
    assert local(X).tolist() == [10, 10]
    with pytest.raises(AttributeError, match="pickle"):  # nobody finds it by a name
        pickle.dumps(local)
