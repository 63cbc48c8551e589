"""What a report says after the world has moved, and what undoing restores."""

import functools
import warnings

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from layers.models import Scale
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

import kernels_core
from kernels_core import (
    Mode,
    kernel_of,
    kernelize,
    kernelized,
    register_kernel_mapping,
    unkernelize,
    use_kernel_forward_from_hub,
)

X = torch.ones(3)


@pytest.fixture(autouse=True)
def _mapping(scaled):
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})


@pytest.fixture
def times100(scaled):
    return {"Scale": {"cpu": scaled("Times100")}}


def value(module):
    return module(X)[0].item()


def decision(model):
    (row,) = kernels_core.report(model).rows
    return row.decision


# Captured forwards


class Keeper:
    """What a hook system keeps: an object with the forward, as diffusers' hooks have one."""

    def __init__(self, forward):
        self.forward = forward


class Slotted:
    __slots__ = ("forward",)

    def __init__(self, forward):
        self.forward = forward


def in_closure(module):
    captured = module.forward

    @functools.wraps(captured)
    def forward(*args, **kwargs):
        return captured(*args, **kwargs)

    module.forward = forward


def in_partial(module):
    module.forward = functools.partial(lambda captured, x: captured(x), module.forward)


def in_keyword(module):
    module.forward = functools.partial(lambda x, captured: captured(x), captured=module.forward)


def in_default(module):
    def forward(x, captured=module.forward):
        return captured(x)

    module.forward = forward


def in_object(module):
    keeper = Keeper(module.forward)
    module.forward = lambda x: keeper.forward(x)


def in_slot(module):
    keeper = Slotted(module.forward)
    module.forward = lambda x: keeper.forward(x)


def in_list(module):
    chain = [module.forward]
    module.forward = lambda x: chain[0](x)


def in_attribute(module):
    module._original = module.forward
    module.forward = functools.partial(lambda module, x: module._original(x), module)


def in_two_wrappers(module):
    in_closure(module)
    in_object(module)


def compiled(module):
    module.forward = torch.compile(module.forward, backend="eager")


def by_name(module):
    module._original = module.forward
    module.forward = lambda x: getattr(module, "_original")(x)  # noqa: B009 # as hooks do it


class FromRegistry:
    def __call__(self, x):
        return REGISTRY[0](x)


REGISTRY = {}


def in_global_registry(module):
    REGISTRY[0] = module.forward
    module.forward = FromRegistry()


HOOKS = [
    by_name,
    in_global_registry,
    in_closure,
    in_partial,
    in_keyword,
    in_default,
    in_object,
    in_slot,
    in_list,
    in_attribute,
    in_two_wrappers,
    compiled,
]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.filterwarnings("error:.*still run:RuntimeWarning")
def test_captured_forwards_follow_the_module(hook, times100):
    model = kernelize(nn.Sequential(Scale()), mode=Mode.INFERENCE)
    hook(model[0])
    assert value(model) == 20
    assert "Times10, from" in decision(model)
    assert "another package" in decision(model)
    assert kernel_of(model[0]).layer == "Times10"

    kernelize(model, mode=Mode.INFERENCE, mapping=times100)
    assert value(model) == 200
    assert "Times100, from" in decision(model)

    with kernelized(model, mode=Mode.INFERENCE, mapping={}):
        assert value(model) == 2
        assert "original forward: the mapping has no layer" in decision(model)
        assert kernel_of(model[0]) is None
    assert value(model) == 200

    unkernelize(model)
    assert value(model) == 2
    assert kernel_of(model[0]) is None
    assert value(kernelize(model, mode=Mode.INFERENCE)) == 20


@pytest.mark.filterwarnings("error:.*still run:RuntimeWarning")
def test_what_is_hooked_inside_a_with_block_is_restored_after_it():
    model = nn.Sequential(Scale())
    with kernelized(model, mode=Mode.INFERENCE):
        in_closure(model[0])
        assert value(model) == 20
    assert value(model) == 2


@pytest.mark.filterwarnings("error:.*still run:RuntimeWarning")
@pytest.mark.parametrize("count", [3, 100])
def test_forwards_captured_elsewhere_follow_too(count):
    model = kernelize(nn.Sequential(*(Scale() for _ in range(count))), mode=Mode.INFERENCE)
    forwards = {"all": [module.forward for module in model]}
    unkernelize(model)
    assert [forward(X)[0].item() for forward in forwards["all"]] == [2] * count


def test_a_captured_forward_that_cannot_be_changed_is_told():
    model = kernelize(nn.ModuleDict({"norm": Scale()}), mode=Mode.INFERENCE)
    forward = model["norm"].forward  # a variable, and not a place that can be written to
    with pytest.warns(RuntimeWarning, match="1 captured forward of ModuleDict still run.*: norm"):
        unkernelize(model)
    assert forward(X)[0].item() == 20


def test_the_function_of_a_kernel_that_was_captured_is_told_and_reported():
    model = nn.Sequential(Scale())
    kernelize(model, mode=Mode.INFERENCE)
    module, function = model[0], type(model[0]).forward
    module.forward = lambda x: function(module, x)
    kernelize(model, mode=Mode.INFERENCE, mapping={})
    assert value(model) == 20
    assert "original forward" not in decision(model)
    assert kernel_of(module).layer == "Times10"
    with pytest.warns(RuntimeWarning, match="still run"):
        unkernelize(model)


def test_a_wrapper_that_runs_something_else_hides_the_kernel():
    model = kernelize(nn.Sequential(Scale()), mode=Mode.INFERENCE)
    model[0].forward = lambda x: 5 * x
    assert value(model) == 5
    assert "original forward: another package set a forward" in decision(model)
    assert kernel_of(model[0]) is None


def test_hooks_of_accelerate_are_followed_when_added_and_removed():
    model = kernelize(nn.Sequential(Scale()), mode=Mode.INFERENCE)
    add_hook_to_module(model[0], ModelHook())
    assert "Times10, from" in decision(model)
    unkernelize(model)
    assert value(model) == 2
    kernelize(model, mode=Mode.INFERENCE)
    remove_hook_from_module(model[0])
    assert (value(model), "Times10, from" in decision(model)) == (20, True)


def test_a_class_derived_from_the_kernelized_one():
    model = kernelize(nn.Sequential(Scale()), mode=Mode.INFERENCE)

    class Derived(type(model[0])):
        def forward(self, x):
            return 3 * super().forward(x)

    class Replaced(type(model[0])):
        def forward(self, x):
            return 3 * x

    model[0].__class__ = Derived
    assert value(model) == 60
    assert "Times10, from" in decision(model)
    with pytest.warns(RuntimeWarning, match="Derived was made from a kernelized class"):
        unkernelize(model)
    kernelize(model, mode=Mode.INFERENCE)
    model[0].__class__ = Replaced
    assert value(model) == 3
    assert "original forward" in decision(model)


def test_a_forward_that_was_set_on_the_class_of_a_kernelized_module():
    model = kernelize(nn.Sequential(Scale()), mode=Mode.INFERENCE)
    type(model[0]).forward = lambda self, x: 3 * x
    assert value(model) == 3
    assert "original forward: another package set a forward" in decision(model)
    assert kernel_of(model[0]) is None
    kernelize(unkernelize(model), mode=Mode.INFERENCE)
    assert (value(model), "Times10, from" in decision(model)) == (20, True)


def test_a_forward_that_was_bound_by_hand():
    model = kernelize(nn.Sequential(Scale()), mode=Mode.INFERENCE)
    model[0].forward = functools.partial(Scale.forward, model[0])
    assert "original forward: another package" in decision(model)
    model[0].forward = Scale.forward.__get__(model[0])
    assert value(model) == 2
    assert "original forward: its forward was set on the instance" in decision(model)


# Modules that change


class Same(nn.Module):
    def forward(self, weight):
        return weight


def test_a_with_block_keeps_what_torch_did_to_classes_inside_of_it(mesh, times100):
    from torch.distributed.fsdp import FSDPModule, fully_shard

    model = nn.Sequential(Scale(), Scale(), Scale())
    parametrize.register_parametrization(model[1], "weight", Same())
    with kernelized(model, mode=Mode.INFERENCE):
        parametrize.register_parametrization(model[0], "weight", Same())
        parametrize.remove_parametrizations(model[1], "weight")
        fully_shard(model[2], mesh=mesh)
        assert value(model) == 8000
    assert [parametrize.is_parametrized(module) for module in model] == [True, False, False]
    assert type(model[1]) is Scale
    assert isinstance(model[2], FSDPModule)
    assert value(model) == 8

    kernelize(model, mode=Mode.INFERENCE)
    with kernelized(model, mode=Mode.INFERENCE, mapping=times100):
        parametrize.remove_parametrizations(model[0], "weight")
        assert value(model) == 8_000_000
    assert type(model[0]) is type(model[1])
    assert value(model) == 8000


def test_a_lazy_module_that_becomes_what_it_is_inside_a_with_block():
    model = nn.Sequential(LazyScale())
    with kernelized(model, mode=Mode.INFERENCE, device="cpu"):
        assert value(model) == 20
    assert type(model[0]) is Scale
    assert value(model) == 2


def test_modules_that_came_and_went():
    model = kernelize(nn.Sequential(Scale(), Scale()), mode=Mode.INFERENCE)
    model[0] = Scale()
    report = kernels_core.report(model)
    assert {name: row.kernel for name, row in report.modules()} == {"0": None, "1": "Times10"}
    assert "came into the model after kernelize" in str(report)
    del model[1]
    assert "came into the model after kernelize" in decision(model)
    model[0] = nn.Linear(3, 3)
    assert str(kernels_core.report(model)) == "no extensible layers"


def test_a_class_that_was_set_by_hand():
    model = kernelize(nn.Sequential(Scale()), mode=Mode.INFERENCE)

    class Other(nn.Module):
        def forward(self, x):
            return 7 * x

    model[0].__class__ = Scale
    assert "original forward: its class was set to Scale after kernelize" in decision(model)
    model[0].__class__ = Other
    assert str(kernels_core.report(model)) == "no extensible layers"
    assert value(unkernelize(model)) == 7


class LazyScale(LazyModuleMixin, Scale):
    cls_to_become = Scale

    def __init__(self):
        super().__init__()
        self.weight = UninitializedParameter()

    def initialize_parameters(self, x):
        self.weight.materialize(x.shape)
        nn.init.constant_(self.weight, 2)


def test_a_lazy_module_keeps_its_kernel_when_it_becomes_what_it_is():
    model = kernelize(nn.Sequential(LazyScale()), mode=Mode.INFERENCE, device="cpu")
    captured = [model[0].forward]
    assert [value(model), value(model)] == [20, 20]
    assert isinstance(model[0], Scale)
    assert not isinstance(model[0], LazyScale)
    assert kernels_core.report(model).rows[0].class_name == "Scale"
    assert "Times10, from" in decision(model)
    unkernelize(model)
    assert (type(model[0]), value(model), captured[0](X)[0].item()) == (Scale, 2, 2)


def test_a_lazy_module_is_restored_before_its_first_call():
    model = kernelize(nn.Sequential(LazyScale()), mode=Mode.INFERENCE, device="cpu")
    unkernelize(model)
    assert type(model[0]) is LazyScale
    assert value(model) == 2


def test_a_lazy_module_that_becomes_something_not_extensible_loses_its_kernel_and_it_is_said():
    class Plain(nn.Module):
        def forward(self, x):
            return self.weight * x

    @use_kernel_forward_from_hub("Scale")
    class Lazy(LazyModuleMixin, Plain):
        cls_to_become = Plain
        initialize_parameters = LazyScale.initialize_parameters

        def __init__(self):
            super().__init__()
            self.weight = UninitializedParameter()

    model = kernelize(nn.Sequential(Lazy()), mode=Mode.INFERENCE, device="cpu")
    model(X)
    assert value(model) == 2
    assert "original forward: its class was set to" in decision(model)


def test_a_model_that_moved_to_another_device():
    model = kernelize(nn.Sequential(Scale()), mode=Mode.INFERENCE)
    model.to("meta")
    assert "its device is meta now, call kernelize again" in decision(model)
    assert kernels_core.report(model).rows[0].kernel == "Times10"


def test_a_printed_report_does_not_change():
    model = kernelize(nn.Sequential(Scale()), mode=Mode.INFERENCE)
    report = kernels_core.report(model)
    assert kernels_core.report(model) is report
    before = str(report)
    model[0].__class__ = Scale
    assert str(report) == before
    assert str(kernels_core.report(model)) != before


# Conditions


@pytest.fixture
def float32_only(make_kernel):
    kernel = make_kernel(
        """
        from typing import Annotated

        class Float32(nn.Module):
            weight: Annotated[torch.Tensor, torch.float32]

            def forward(self, x):
                assert type(self.weight) is nn.Parameter, "called with what it does not take"
                assert self.weight.dtype is torch.float32, "called with what it does not take"
                return 10 * self.weight * x
        """,
        name="conditions",
    )
    return {"Scale": {"cpu": kernel("Float32")}}


@pytest.fixture
def model(float32_only):
    made = nn.Sequential(Scale(), Scale())
    return kernelize(made, mode=Mode.INFERENCE, mapping=float32_only)


def to_bfloat16(model):
    model.bfloat16()


def assign_half(model):
    for module in model:
        module.weight = nn.Parameter(module.weight.half())


def load_assigned(model):
    state = {name: value.half() for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


@pytest.mark.parametrize("change", [to_bfloat16, assign_half, load_assigned])
def test_a_module_that_ceases_to_meet_conditions_runs_its_own_forward(model, change):
    before = [type(module) for module in model]
    assert model(X)[0].item() == 400
    with pytest.warns(RuntimeWarning, match="Float32 is not used.*float32 is required") as caught:
        change(model)
    assert len(caught) == 1
    dtype = model[0].weight.dtype
    assert model(X.to(dtype))[0].item() == 4
    assert decision(model).startswith(f"original forward: its weight is {dtype}, and torch.float32")
    assert kernel_of(model[0]) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.float()
    assert model(X)[0].item() == 400
    assert "Float32, from" in decision(model)
    assert [type(module) for module in model] == before


def test_a_condition_that_raises_does_not_stop_what_the_user_does(make_kernel):
    kernel = make_kernel(
        """
        from typing import Annotated

        def is_three_long(weight):
            return weight.reshape(3) is not None

        class Three(nn.Module):
            weight: Annotated[torch.Tensor, is_three_long]

            def forward(self, x):
                return 10 * self.weight * x
        """,
        name="raising",
    )
    model = nn.Sequential(Scale())
    kernelize(model, mode=Mode.INFERENCE, mapping={"Scale": {"cpu": kernel("Three")}})
    with pytest.warns(RuntimeWarning, match="a condition raised RuntimeError"):
        model[0].weight = nn.Parameter(torch.full((1,), 2.0))
    assert value(model) == 2
    assert "original forward: a condition raised RuntimeError" in decision(model)


def test_a_with_block_in_which_a_module_ceases_to_meet_conditions(model):
    with (
        pytest.warns(RuntimeWarning, match="Float32 is not used"),
        kernelized(model, mode=Mode.INFERENCE, mapping={}),
    ):
        model.half()
    assert model(X.half())[0].item() == 4
    assert decision(model).startswith("original forward: its weight is torch.float16")
    with kernelized(model, mode=Mode.INFERENCE, mapping={}):
        model.float()
    assert model(X)[0].item() == 400


def test_undoing_a_module_that_runs_its_own_forward(model):
    with pytest.warns(RuntimeWarning):
        model.half()
    unkernelize(model)
    assert type(model[0]) is Scale
    model.float()
    assert model(X)[0].item() == 4


def test_a_module_that_was_not_looked_at_since_it_met_the_conditions_again(model):
    with pytest.warns(RuntimeWarning):
        model.half()
    for module in model:
        module.weight.data = module.weight.data.float()
    assert model(X)[0].item() == 4
    assert "original forward: it did not suit the kernel Float32 when" in decision(model)


def test_tensors_that_were_changed_behind_the_back_of_the_module_are_reported(model):
    for module in model:
        module.weight.data = module.weight.data.half()
    assert "Float32, from" in decision(model)
    assert (
        "does not meet the kernel's conditions any more, call kernelize again: its weight is"
        in (decision(model))
    )
    del model[1].weight
    assert "it has no weight" in str(kernels_core.report(model))


def test_parametrized_modules_are_watched(model):
    class Half(nn.Module):
        def forward(self, weight):
            return weight.half()

    parametrize.register_parametrization(model[0], "weight", Half(), unsafe=True)
    parametrize.register_parametrization(model[1], "weight", Half(), unsafe=True)
    assert "its weight is torch.float16" in decision(model)
    with pytest.warns(RuntimeWarning):
        model.to("cpu")
    assert model(X.half())[0].item() == 4
    unkernelize(model)
    assert model(X.half())[0].item() == 4


def test_calls_are_checked_on_request(float32_only, monkeypatch):
    monkeypatch.setenv("KERNELS_CHECK_CALLS", "1")
    model = nn.Sequential(Scale(), Scale())
    kernelize(model, mode=Mode.INFERENCE, mapping=float32_only)
    monkeypatch.delenv("KERNELS_CHECK_CALLS")
    assert model(X)[0].item() == 400
    for module in model:
        module.weight.data = module.weight.data.half()
    with pytest.warns(RuntimeWarning, match="Float32 is not used") as caught:
        assert model(X.half())[0].item() == 4
    assert len(caught) == 1
    assert "original forward: its weight is torch.float16" in decision(model)
    kernelize(model.float(), mode=Mode.INFERENCE, mapping=float32_only)
    assert model(X)[0].item() == 400


@pytest.mark.parametrize("cast_first", [True, False])
def test_casting_around_calls_uses_the_kernel_in_them(model, cast_first):
    module = model[0]
    if cast_first:  # as diffusers' layerwise casting does
        with pytest.warns(RuntimeWarning):
            module.to(torch.bfloat16)
    captured = module.forward

    def forward(x):
        module.to(torch.float32)
        try:
            return captured(x)
        finally:
            module.to(torch.bfloat16)

    module.forward = forward
    if not cast_first:
        with pytest.warns(RuntimeWarning):
            module.to(torch.bfloat16)
    assert module(X)[0].item() == 20
    (row, _) = dict(kernels_core.report(model).modules()).values()
    assert "Float32, from" in row.decision
    assert "makes it fit" in row.decision


@pytest.fixture
def mesh(tmp_path):
    from torch.distributed.device_mesh import init_device_mesh

    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def shard(model, mesh):
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.parallel import SequenceParallel, parallelize_module

    parallelize_module(model, mesh, {"0": SequenceParallel(), "1": SequenceParallel()})
    assert isinstance(model[0].weight, DTensor)


def test_tensor_parallelism_after_kernelize(model, mesh):
    with pytest.warns(RuntimeWarning, match="its weight is a DTensor, and a plain tensor is"):
        shard(model, mesh)
    assert "original forward: its weight is a DTensor" in decision(model)
    assert model(torch.ones(1, 1, 3)).to_local().flatten().tolist() == [4, 4, 4]


def test_tensor_parallelism_before_kernelize(float32_only, mesh):
    model = nn.Sequential(Scale(), Scale())
    shard(model, mesh)
    kernelize(model, mode=Mode.INFERENCE, mapping=float32_only)
    assert "its weight is a DTensor, and a plain tensor is required" in decision(model)
    assert model(torch.ones(1, 1, 3)).to_local().flatten().tolist() == [4, 4, 4]


@pytest.mark.parametrize("sharded_first", [True, False])
def test_fsdp_gathers_plain_tensors_for_the_kernel(float32_only, mesh, sharded_first):
    from torch.distributed.fsdp import fully_shard

    model = nn.Sequential(Scale(), Scale())
    if sharded_first:
        fully_shard(model, mesh=mesh)
    kernelize(model, mode=Mode.TRAINING, mapping=float32_only)
    if not sharded_first:
        fully_shard(model, mesh=mesh)
    assert "Float32, from" in decision(model)
    assert "any more" not in decision(model)
    assert model(X)[0].item() == 400
    model.to("cpu")
    assert model(X)[0].item() == 400
    unkernelize(model)
    assert model(X)[0].item() == 4
