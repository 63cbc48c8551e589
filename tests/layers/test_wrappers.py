"""Kernels below wrappers of other packages: hooks, offloading, parametrization, sharding."""

import copy

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from layers.models import Scale
from torch import nn
from torch.nn.utils import parametrize

import kernels_core
from kernels_core import (
    Mode,
    kernelize,
    register_kernel_mapping,
    unkernelize,
    use_kernel_mapping,
)

X = torch.ones(3)


@pytest.fixture(autouse=True)
def _mapping(scaled):
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})


@pytest.fixture
def times100(scaled):
    return {"Scale": {"cpu": scaled("Times100")}}


class CountingHook(ModelHook):
    """accelerate's own kind of hook, which counts that it ran around the forward."""

    def __init__(self):
        self.calls = 0

    def post_forward(self, module, output):
        self.calls += 1
        return output


def value(module):
    return module(X)[0].item()


# accelerate


def test_a_kernel_runs_inside_accelerates_hook(times100):
    module, hook = Scale(), CountingHook()
    add_hook_to_module(module, hook)
    before = dict(module.__dict__)
    kernelize(module, mode=Mode.INFERENCE, use_fallback=False)
    assert kernels_core.report(module).rows[0].kernel == "Times10"
    assert (value(module), hook.calls) == (20, 1)
    with use_kernel_mapping(times100):
        kernelize(module, mode=Mode.INFERENCE, use_fallback=False)
    assert (value(module), hook.calls) == (200, 2)
    unkernelize(module)
    assert (value(module), hook.calls) == (2, 3)
    assert module.__dict__ == before


def test_a_hook_may_come_later(times100):
    module, hook = kernelize(Scale(), mode=Mode.INFERENCE), CountingHook()
    add_hook_to_module(module, hook)
    assert (value(module), hook.calls) == (20, 1)
    with use_kernel_mapping(times100):
        kernelize(module, mode=Mode.INFERENCE, use_fallback=False)
    assert (value(module), hook.calls) == (200, 2)
    unkernelize(module)
    assert (value(module), hook.calls) == (2, 3)


@pytest.mark.parametrize("kernelized_first", [True, False])
def test_what_a_removed_hook_leaves_behind_is_not_foreign(kernelized_first, times100):
    module = Scale()
    if kernelized_first:
        kernelize(module, mode=Mode.INFERENCE)
    add_hook_to_module(module, CountingHook())
    kernelize(module, mode=Mode.INFERENCE)
    remove_hook_from_module(module)
    assert "forward" in module.__dict__, "accelerate leaves a bound forward on the instance"
    assert value(module) == 20
    with use_kernel_mapping(times100):
        kernelize(module, mode=Mode.INFERENCE, use_fallback=False)
    assert value(module) == 200
    unkernelize(module)
    assert value(module) == 2
    remove_hook_from_module(module)
    assert value(kernelize(module, mode=Mode.INFERENCE)) == 20


def test_a_hook_around_another_packages_wrapper_is_left_alone():
    module, hook = Scale(), CountingHook()
    module.forward = lambda x: 5 * module.weight * x
    add_hook_to_module(module, hook)
    kernelize(module, mode=Mode.INFERENCE)
    assert "on the instance itself" in kernels_core.report(module).rows[0].reason
    assert (value(module), hook.calls) == (10, 1)


def test_a_wrapper_that_is_not_accelerates_is_left_alone_whatever_it_keeps():
    module = Scale()
    module._old_forward = own = module.forward  # the attribute has no meaning without the hook
    module.forward = wrapper = lambda x: 5 * own(x)
    kernelize(module, mode=Mode.INFERENCE)
    assert "on the instance itself" in kernels_core.report(module).rows[0].reason
    assert module.forward is wrapper
    assert value(module) == 10


def test_offloaded_modules_are_on_the_device_where_their_hook_computes():
    model = nn.Sequential(Scale(), nn.Sequential(Scale()))
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert model[0].weight.device.type == "meta"
    kernelize(model, mode=Mode.INFERENCE, use_fallback=False)
    assert [row.device for row in kernels_core.report(model).rows] == ["cpu"]
    assert model(X).tolist() == [400, 400, 400]
    assert model[0].weight.device.type == "meta", "the hook offloads again"
    unkernelize(model)
    assert model(X).tolist() == [4, 4, 4]


def test_an_interrupt_puts_hooked_modules_back(monkeypatch):
    class Stubborn(Scale):
        def __setattr__(self, name, value):
            if name == "__class__":
                raise KeyboardInterrupt
            super().__setattr__(name, value)

    model = nn.Sequential(Scale(), Stubborn())
    add_hook_to_module(model[0], CountingHook())
    before = dict(model[0].__dict__)
    with pytest.raises(KeyboardInterrupt):
        kernelize(model, mode=Mode.INFERENCE)
    assert model[0].__dict__ == before
    assert value(model[0]) == 2


# torch.nn.utils.parametrize


class AddOne(nn.Module):
    def forward(self, weight):
        return weight + 1


@pytest.mark.parametrize("parametrized_first", [True, False])
def test_parametrizations(parametrized_first, times100):
    module = Scale()
    if not parametrized_first:
        kernelize(module, mode=Mode.INFERENCE)
    parametrize.register_parametrization(module, "weight", AddOne())
    kernelize(module, mode=Mode.INFERENCE, use_fallback=False)
    assert value(module) == 30
    with use_kernel_mapping(times100):
        kernelize(module, mode=Mode.INFERENCE, use_fallback=False)
    assert value(module) == 300
    assert value(copy.deepcopy(module)) == 300
    assert type(module).__name__ == "ParametrizedScale"
    unkernelize(module)
    assert value(module) == 3
    assert value(copy.deepcopy(module)) == 3
    parametrize.remove_parametrizations(module, "weight")
    assert type(module) is Scale
    assert value(module) == 3


def test_parametrized_modules_have_one_class_however_often_they_are_kernelized():
    module = Scale()
    parametrize.register_parametrization(module, "weight", AddOne())
    original = type(module)
    kernelized = type(kernelize(module, mode=Mode.INFERENCE))
    assert kernelized is not original
    assert type(unkernelize(module)) is original
    assert type(kernelize(module, mode=Mode.INFERENCE)) is kernelized


def test_a_module_parametrized_while_kernelized_can_be_copied_after_undoing():
    module = kernelize(Scale(), mode=Mode.INFERENCE)
    parametrize.register_parametrization(module, "weight", AddOne())
    assert value(copy.deepcopy(module)) == 30
    assert value(copy.deepcopy(unkernelize(module))) == 3


def test_removing_a_parametrization_leaves_the_module_kernelized():
    module = Scale()
    parametrize.register_parametrization(module, "weight", AddOne())
    kernelize(module, mode=Mode.INFERENCE)
    parametrize.remove_parametrizations(module, "weight")
    assert value(module) == 30
    assert not parametrize.is_parametrized(module)
    unkernelize(module)
    assert type(module) is Scale


def test_one_more_parametrization_below_a_kernel_survives_undoing():
    class Two(Scale):
        def __init__(self):
            super().__init__()
            self.other = nn.Parameter(torch.ones(1))

    module = Two()
    parametrize.register_parametrization(module, "weight", AddOne())
    kernelize(module, mode=Mode.INFERENCE)
    parametrize.register_parametrization(module, "other", AddOne())
    unkernelize(module)
    assert value(module) == 3
    assert module.other.item() == 2
    kernelize(module, mode=Mode.INFERENCE)
    assert (value(module), module.other.item()) == (30, 2)


# FSDP2 and DataParallel


@pytest.fixture
def process_group(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("sharded_first", [True, False])
def test_fully_shard(process_group, sharded_first, times100):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh("cpu", (1,))
    module = nn.Sequential(Scale(), Scale())
    if not sharded_first:
        kernelize(module, mode=Mode.TRAINING)
    for part in (*module, module):
        fully_shard(part, mesh=mesh)
    kernelize(module, mode=Mode.TRAINING, use_fallback=False)
    out = module(X)
    assert out[0].item() == 400
    out.sum().backward()
    assert module[0].weight.grad.full_tensor().tolist() == [200, 200, 200]
    assert isinstance(module[0], FSDPModule)
    with use_kernel_mapping(times100):
        kernelize(module, mode=Mode.TRAINING, use_fallback=False)
    assert module(X)[0].item() == 40000
    unkernelize(module)
    assert module(X)[0].item() == 4
    assert isinstance(module[0], FSDPModule)
    assert isinstance(module[0], Scale)


def test_replicas_of_data_parallel_compute_with_their_own_weights():
    module = kernelize(Scale(), mode=Mode.INFERENCE)
    replica = module._replicate_for_data_parallel()
    replica.weight = torch.full((3,), 7.0)
    assert value(replica) == 70
    assert value(module) == 20
