"""kernelize and unkernelize on real modules, with kernels from repositories on disk."""

import pytest
import torch
from layers.models import Scale
from torch import nn

import kernels_core
from kernels_core import (
    Device,
    Features,
    KernelizeFallback,
    KernelsError,
    LocalLayerRepository,
    Mode,
    errors,
    kernelize,
    register_kernel_mapping,
    replace_kernel_forward_from_hub,
    unkernelize,
    use_kernel_forward_from_hub,
    use_kernel_mapping,
)

X = torch.ones(3)


def model():
    return nn.Sequential(Scale(), nn.Linear(3, 3), nn.ModuleDict({"inner": Scale()}))


def but_for(case):
    """Every case of fallback but one."""
    return KernelizeFallback.ALL & ~case


def factor(module):
    """Which forward a Scale runs: 1 its own, 10 or 100 a kernel's."""
    return (module(X) / (module.weight * X)).mean().item()


def test_a_kernel_replaces_the_forward_of_every_instance(scaled):
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    kernelized = model()
    assert kernelize(kernelized, mode=Mode.INFERENCE) is kernelized
    assert factor(kernelized[0]) == 10
    assert factor(kernelized[2]["inner"]) == 10
    assert factor(Scale()) == 1, "other instances of the class are left alone"
    assert isinstance(kernelized[0], Scale)
    assert type(kernelized[0]).__name__ == "Scale"


def test_the_root_itself_can_be_extensible(scaled):
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    assert factor(kernelize(Scale(), mode=Mode.INFERENCE)) == 10


def test_unkernelize_restores_what_was(scaled):
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    original = model()
    before = {name: (type(m), dict(m.__dict__)) for name, m in original.named_modules()}
    assert unkernelize(kernelize(original, mode=Mode.INFERENCE)) is original
    after = {name: (type(m), dict(m.__dict__)) for name, m in original.named_modules()}
    assert after == before
    assert unkernelize(original) is original


def test_the_last_call_decides(scaled):
    module = Scale()
    with use_kernel_mapping({"Scale": {"cpu": scaled("Times10")}}):
        kernelize(module, mode=Mode.INFERENCE)
    with use_kernel_mapping({"Scale": {"cpu": scaled("Times100")}}):
        assert factor(module) == 10
        kernelize(module, mode=Mode.INFERENCE)
    assert factor(module) == 100
    kernelize(module, mode=Mode.INFERENCE)
    assert factor(module) == 1, "without a mapping the original forward is back"


def test_kernelizing_twice_is_the_same_as_once(scaled):
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    module = kernelize(Scale(), mode=Mode.INFERENCE)
    cls = type(module)
    assert type(kernelize(module, mode=Mode.INFERENCE)) is cls
    assert type(kernelize(Scale(), mode=Mode.INFERENCE)) is cls


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu"), torch.device("cpu", 0)])
def test_a_given_device_decides(scaled, device):
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    assert factor(kernelize(Scale(), mode=Mode.INFERENCE, device=device)) == 10


def test_a_module_without_tensors_takes_the_device_around_it(make_kernel):
    @use_kernel_forward_from_hub("Twice")
    class Twice(nn.Module):
        def forward(self, x):
            return 2 * x

    class Meta(nn.Module):
        def __init__(self):
            super().__init__()
            self.twice = Twice()
            self.lost = nn.Parameter(torch.empty(1, device="meta"))

    kernel = make_kernel("class Thrice(nn.Module):\n    def forward(self, x): return 3 * x")
    register_kernel_mapping({"Twice": {"cpu": kernel("Thrice")}})
    tree = nn.Sequential(Meta(), nn.Sequential(nn.Linear(1, 1), Twice()), Twice())
    kernelize(tree, mode=Mode.INFERENCE)
    rows = dict(kernels_core.report(tree).modules())
    assert rows["0.twice"].device == "meta"
    assert "meta device" in rows["0.twice"].reason
    assert rows["1.1"].device == "cpu"
    assert rows["2"].device == "meta", "the model's first tensor, when nothing nearer has one"
    assert tree[1][1](X).tolist() == [3, 3, 3]


def test_a_module_whose_tensors_are_below_it_takes_their_device(make_kernel):
    @use_kernel_forward_from_hub("Block")
    class Block(nn.Module):
        def __init__(self, device):
            super().__init__()
            self.inner = nn.Sequential(nn.ReLU(), nn.Linear(1, 1, device=device))

        def forward(self, x):
            return x

    kernel = make_kernel("class Plus1(nn.Module):\n    def forward(self, x): return x + 1")
    register_kernel_mapping({"Block": {"cpu": kernel("Plus1")}})
    tree = kernelize(nn.Sequential(Block("meta"), Block("cpu")), mode=Mode.INFERENCE)
    assert tree[0](X).tolist() == [1, 1, 1]
    assert tree[1](X).tolist() == [2, 2, 2]


def test_a_model_without_tensors_needs_a_device():
    with pytest.raises(ValueError, match=r"device of Sequential: .* Pass device="):
        kernelize(nn.Sequential(nn.ReLU()), mode=Mode.INFERENCE)
    kernelize(nn.Sequential(nn.ReLU()), mode=Mode.INFERENCE, device="cpu")


def test_shared_modules_are_one(scaled):
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    shared = Scale()
    tree = kernelize(nn.Sequential(shared, shared), mode=Mode.INFERENCE)
    assert [row.count for row in kernels_core.report(tree).rows] == [1]
    assert factor(shared) == 10


def test_a_class_of_another_package_and_its_condition(scaled):
    class Theirs(Scale):
        pass

    replace_kernel_forward_from_hub(Theirs, "Theirs", lambda module: module.wanted)
    register_kernel_mapping({"Theirs": {"cpu": scaled("Times10")}})
    wanted, unwanted = Theirs(), Theirs()
    wanted.wanted, unwanted.wanted = True, False
    tree = kernelize(nn.Sequential(wanted, unwanted), mode=Mode.INFERENCE)
    assert [factor(module) for module in tree] == [10, 1]
    wanted.wanted = False
    kernelize(tree, mode=Mode.INFERENCE)
    assert [factor(module) for module in tree] == [1, 1], "a condition that turned False reverts"


def test_a_class_of_torch_itself(scaled, monkeypatch):
    monkeypatch.setattr(nn.Bilinear, "kernel_layer_name", None, raising=False)
    monkeypatch.setattr(nn.Bilinear, "kernel_condition", None, raising=False)
    replace_kernel_forward_from_hub(nn.Bilinear, "Bilinear")
    register_kernel_mapping({"Bilinear": {"cpu": scaled("TwoArguments")}})
    tree = nn.Sequential(nn.Bilinear(3, 3, 3))
    kernelize(tree, mode=Mode.INFERENCE, use_fallback=False)
    assert tree[0](X, X).tolist() == [2, 2, 2]
    assert type(unkernelize(tree)[0]) is nn.Bilinear


def test_a_subclass_with_a_forward_of_its_own_keeps_it(scaled):
    class Overriding(Scale):
        def forward(self, x):
            return 5 * self.weight * x

    class Inheriting(Scale):
        pass

    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    tree = kernelize(nn.Sequential(Overriding(), Inheriting()), mode=Mode.INFERENCE)
    assert [factor(module) for module in tree] == [5, 10]
    rows = dict(kernels_core.report(tree).modules())
    assert "Overriding has a forward of its own" in rows["0"].reason


def test_a_foreign_forward_on_the_instance_is_left_alone(scaled):
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    wrapped, plain = Scale(), Scale()
    wrapped.forward = wrapper = lambda x: 3 * wrapped.weight * x
    tree = kernelize(nn.Sequential(wrapped, plain), mode=Mode.INFERENCE)
    assert [factor(module) for module in tree] == [3, 10]
    assert wrapped.__dict__["forward"] is wrapper
    assert "on the instance itself" in dict(kernels_core.report(tree).modules())["0"].reason
    unkernelize(tree)
    assert wrapped.__dict__["forward"] is wrapper


def test_the_mapping_can_be_switched_off(scaled, monkeypatch):
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    module = kernelize(Scale(), mode=Mode.INFERENCE)
    monkeypatch.setenv("DISABLE_KERNEL_MAPPING", "1")
    assert factor(kernelize(module, mode=Mode.INFERENCE, use_fallback=False)) == 1
    assert "DISABLE_KERNEL_MAPPING" in kernels_core.report(module).rows[0].reason
    monkeypatch.setenv("DISABLE_KERNEL_MAPPING", "perhaps")
    with pytest.raises(ValueError, match="DISABLE_KERNEL_MAPPING"):
        kernelize(module, mode=Mode.INFERENCE)


def test_own_repositories_need_only_load():
    class Own:
        def load(self):
            class Negated(nn.Module):
                def forward(self, x):
                    return -self.weight * x

            return Negated

        __hash__ = None

    register_kernel_mapping({"Scale": {"cpu": Own()}})
    assert factor(kernelize(Scale(), mode=Mode.INFERENCE)) == -1


def test_a_repository_is_loaded_once_and_must_load_a_layer():
    class Counting:
        loads = 0

        def load(self):
            self.loads += 1
            return type("Negated", (nn.Module,), {"forward": lambda self, x: -self.weight * x})

    counting = Counting()
    for _ in range(2):
        kernelize(Scale(), mode=Mode.INFERENCE, mapping={"Scale": {"cpu": counting}})
    assert counting.loads == 1

    class NoLayer:
        def load(self):
            return "a string"

        def __str__(self):
            return "the repository"

    with pytest.raises(errors.InvalidLayerError, match="Layer \"'a string'\" of the repository"):
        kernelize(Scale(), mode=Mode.INFERENCE, mapping={"Scale": {"cpu": NoLayer()}})


def test_a_kernelized_class_looks_like_the_original(scaled):
    class Documented(Scale):
        """What it is for."""

    original = Documented
    module = kernelize(
        Documented(), mode=Mode.INFERENCE, mapping={"Scale": {"cpu": scaled("Times10")}}
    )
    cls = type(module)
    assert cls is not original
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        assert getattr(cls, name) == getattr(original, name)
    assert module.can_torch_compile is True


# Modes


def test_modes_choose_the_entry(scaled):
    register_kernel_mapping(
        {"Scale": {"cpu": {Mode.INFERENCE: scaled("Times10"), Mode.TRAINING: scaled("Times100")}}}
    )
    assert factor(kernelize(Scale(), mode=Mode.INFERENCE)) == 10
    assert factor(kernelize(Scale(), mode=Mode.TRAINING)) == 100
    compiled = kernelize(Scale(), mode=Mode.TRAINING | Mode.TORCH_COMPILE)
    assert factor(compiled) == 1
    reason = kernels_core.report(compiled).rows[0].reason
    assert "no entry serves TRAINING|TORCH_COMPILE; " in reason
    assert reason.endswith("there are entries for INFERENCE, TRAINING")


@pytest.mark.parametrize(
    ("registered", "lacking"),
    [(Mode.TRAINING, "backward"), (Mode.INFERENCE | Mode.TORCH_COMPILE, "torch.compile")],
)
def test_an_entry_for_a_mode_that_its_layer_lacks_is_an_error(scaled, registered, lacking):
    register_kernel_mapping({"Scale": {"cpu": {registered: scaled("InferenceOnly")}}})
    module = Scale()
    with pytest.raises(ValueError, match=f"InferenceOnly.*does not support {lacking}") as caught:
        kernelize(module, mode=registered, use_fallback=but_for(KernelizeFallback.NO_LAYER))
    assert caught.value.layer == "Scale"
    assert "kernel" in caught.value.repository
    assert type(module) is Scale
    entry = {registered: [scaled("InferenceOnly"), scaled("Times10")]}
    with pytest.raises(ValueError, match=f"does not support {lacking}"):
        kernelize(module, mode=registered, mapping={"Scale": {"cpu": entry}})


def test_a_fallback_that_cannot_serve_the_mode_gives_way(scaled):
    register_kernel_mapping({"Scale": {"cpu": scaled("InferenceOnly")}})
    module = Scale()
    assert factor(kernelize(module, mode=Mode.INFERENCE)) == 1000
    assert factor(kernelize(module, mode=Mode.TRAINING)) == 1
    assert "does not support backward" in kernels_core.report(module).rows[0].reason
    with pytest.raises(ValueError, match="does not support backward"):
        kernelize(module, mode=Mode.TRAINING, use_fallback=False)


# Fallback


MISSING = LocalLayerRepository("/no/such/repository", layer_name="Times10")


@pytest.mark.parametrize(
    ("case", "mapping"),
    [
        (KernelizeFallback.NO_LAYER, {}),
        (KernelizeFallback.NO_DEVICE, {"Scale": {"cuda": MISSING}}),
        (
            KernelizeFallback.NO_COMPATIBLE_PROPERTIES,
            {"Scale": {Device("cpu", Features({"no such feature"})): MISSING}},
        ),
        (KernelizeFallback.NO_COMPATIBLE_MODE, {"Scale": {"cpu": {Mode.TRAINING: MISSING}}}),
        (KernelizeFallback.NO_BUILD, None),
        (KernelizeFallback.CANNOT_LOAD, {"Scale": {"cpu": MISSING}}),
    ],
)
def test_what_may_fall_back_is_decided_case_by_case(make_kernel, case, mapping):
    if mapping is None:
        elsewhere = make_kernel("class Times10(nn.Module): pass", variant="torch-metal")
        mapping = {"Scale": {"cpu": elsewhere("Times10")}}
    register_kernel_mapping(mapping)
    mode = Mode.INFERENCE | Mode.TORCH_COMPILE
    module = Scale()
    for allowed in (case, KernelizeFallback.ALL):
        kernelize(module, mode=mode, use_fallback=allowed)
        assert kernels_core.report(module).rows[0].reason
    for forbidden in (KernelizeFallback.ALL & ~case, KernelizeFallback.NONE, False):
        with pytest.raises(KernelsError):
            kernelize(module, mode=mode, use_fallback=forbidden)
    if case is KernelizeFallback.CANNOT_LOAD:
        with pytest.raises(FileNotFoundError, match="no/such/repository"):
            kernelize(module, mode=mode, use_fallback=True)
    else:
        kernelize(module, mode=mode)
    assert type(module) is Scale


FAILING = {
    "raises": ("raise RuntimeError('broken kernel')", RuntimeError),
    "exits": ("raise SystemExit(3)", SystemExit),
    "imports what is not there": ("import no_such_package_at_all", ModuleNotFoundError),
    "is no Python": ("def (", SyntaxError),
}


@pytest.mark.parametrize("kind", FAILING)
def test_a_kernels_own_exception_is_the_cause(make_kernel, kind):
    source, cause = FAILING[kind]
    kernel = make_kernel(source)
    register_kernel_mapping({"Scale": {"cpu": kernel("Layer")}})
    module = nn.Sequential(Scale())
    with pytest.raises(ImportError, match="could not be loaded") as caught:
        kernelize(module, mode=Mode.INFERENCE)
    assert isinstance(caught.value, errors.KernelImportError)
    assert isinstance(caught.value.__cause__, cause)
    assert f"{cause.__name__}: " in str(caught.value)
    assert caught.value.repository.endswith("kernel")
    assert type(module[0]) is Scale
    kernelize(module, mode=Mode.INFERENCE, use_fallback=KernelizeFallback.ALL)
    assert "could not be loaded" in kernels_core.report(module).rows[0].reason


LOAD_ERRORS = [
    error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, errors.LoadError)
]


@pytest.mark.parametrize("error", [*LOAD_ERRORS, OSError, SystemExit])
def test_all_covers_whatever_may_keep_a_kernel_from_being_loaded(scaled, error):
    class Failing:
        def load(self):
            raise error("no network, not trusted, a wrong digest, ...")

    @use_kernel_forward_from_hub("Failing")
    class Other(Scale):
        forward = Scale.forward

    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}, "Failing": {"cpu": Failing()}})
    tree = nn.Sequential(Scale(), Other())
    if error is not errors.NoFittingBuildError:  # which is one of the cases of True
        with pytest.raises(errors.LoadError):
            kernelize(tree, mode=Mode.INFERENCE)
        assert type(tree[0]) is Scale
    kernelize(tree, mode=Mode.INFERENCE, use_fallback=KernelizeFallback.ALL)
    assert [factor(module) for module in tree] == [10, 1]
    assert "not trusted" in kernels_core.report(tree).rows[1].reason


def test_a_failure_leaves_every_module_as_it_was(scaled):
    @use_kernel_forward_from_hub("Broken")
    class Broken(Scale):
        def forward(self, x):
            return x

    tree = nn.Sequential(Scale(), Broken())
    with use_kernel_mapping({"Scale": {"cpu": scaled("Times100")}}):
        kernelize(tree, mode=Mode.INFERENCE)
    before = [type(module) for module in tree]
    report = kernels_core.report(tree)
    register_kernel_mapping(
        {"Scale": {"cpu": scaled("Times10")}, "Broken": {"cpu": scaled("Absent")}}
    )
    with pytest.raises(TypeError, match="has no layer 'Absent'; its layers are: Inf"):
        kernelize(tree, mode=Mode.INFERENCE)
    assert [type(module) for module in tree] == before
    assert factor(tree[0]) == 100
    assert kernels_core.report(tree) is report


def test_an_interrupt_while_applying_leaves_every_module_as_it_was(scaled):
    class Interrupting(Scale):
        """The user presses Ctrl-C when the second instance is reached."""

        armed = False

        def __setattr__(self, name, value):
            if name == "__class__" and self.armed:
                type(self).armed = False
                raise KeyboardInterrupt
            super().__setattr__(name, value)

    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    tree = nn.Sequential(Scale(), Interrupting(), Interrupting())
    Interrupting.armed = True
    with pytest.raises(KeyboardInterrupt):
        kernelize(tree, mode=Mode.INFERENCE)
    assert [type(module) for module in tree] == [Scale, Interrupting, Interrupting]
    assert [factor(module) for module in tree] == [1, 1, 1]


def test_a_condition_that_raises_leaves_the_model_as_it_was(scaled):
    class Asking(Scale):
        pass

    def condition(module):
        raise LookupError("no answer")

    replace_kernel_forward_from_hub(Asking, "Asking", condition)
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    tree = nn.Sequential(Scale(), Asking())
    with pytest.raises(LookupError, match="no answer"):
        kernelize(tree, mode=Mode.INFERENCE)
    assert factor(tree[0]) == 1


# Bad input


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"mode": "INFERENCE"}, TypeError, "mode must be a Mode"),
        ({"mode": Mode.FALLBACK}, ValueError, "for mappings only"),
        ({"mode": Mode.TORCH_COMPILE}, ValueError, r"needs Mode\.INFERENCE or Mode\.TRAINING"),
        ({"mode": Mode.INFERENCE, "device": 0}, TypeError, "device must be a string"),
        ({"mode": Mode.INFERENCE, "device": "cpu:x"}, ValueError, "'cpu:x' is not of the form"),
        ({"mode": Mode.INFERENCE, "device": "cpu:"}, ValueError, "'cpu:' is not of the form"),
        ({"mode": Mode.INFERENCE, "device": "cpu:7"}, RuntimeError, "no device cpu:7"),
        ({"mode": Mode.INFERENCE, "device": "warp"}, ValueError, "warp"),
        ({"mode": Mode.INFERENCE, "device": torch.device("meta")}, ValueError, "meta"),
        ({"mode": Mode.INFERENCE, "use_fallback": 1}, TypeError, "use_fallback must be a bool"),
    ],
)
def test_bad_arguments(scaled, arguments, error, text):
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    module = Scale()
    with pytest.raises(error, match=text) as caught:
        kernelize(module, **{"use_fallback": but_for(KernelizeFallback.NO_BUILD), **arguments})
    assert type(module) is Scale
    if not isinstance(caught.value, (errors.UnknownDeviceError, errors.BackendUnavailableError)):
        with pytest.raises(error, match=text):
            kernelize(module, **{"use_fallback": KernelizeFallback.ALL, **arguments})


def test_a_model_is_a_module():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got <class"):
        kernelize(Scale, mode=Mode.INFERENCE)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        unkernelize({"model": Scale()})


@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "rocm", "xpu", "mps"])
def test_a_requested_device_that_is_not_available_is_never_replaced_by_the_cpu(scaled, device):
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    with pytest.raises(RuntimeError, match=device.partition(":")[0]):
        kernelize(Scale(), mode=Mode.INFERENCE, device=device)
    module = kernelize(
        Scale(), mode=Mode.INFERENCE, device=device, use_fallback=KernelizeFallback.ALL
    )
    assert type(module) is Scale


def test_a_layer_with_another_signature(scaled):
    register_kernel_mapping({"Scale": {"cpu": scaled("TwoArguments")}})
    with pytest.raises(errors.SignatureMismatchError, match="2 parameters instead of 1") as caught:
        kernelize(Scale(), mode=Mode.INFERENCE)
    assert "forward(self, x, y)" in str(caught.value)
    assert "forward(self, x)" in str(caught.value)
    assert caught.value.repository.endswith("kernel")


def test_a_layer_that_expects_what_the_module_lacks(scaled):
    register_kernel_mapping({"Scale": {"cpu": scaled("NeedsBias")}})
    text = "expects the member 'bias', which Scale"
    with pytest.raises(errors.InvalidLayerError, match=text) as caught:
        kernelize(Scale(), mode=Mode.INFERENCE)
    assert caught.value.repository.endswith("kernel")


def test_renamed_parameters_are_allowed_and_reported(scaled):
    register_kernel_mapping({"Scale": {"cpu": scaled("Renamed")}})
    module = kernelize(Scale(), mode=Mode.INFERENCE)
    assert factor(module) == 7
    reason = "calls by keyword fail: in the kernel x is named hidden"
    assert reason in str(kernels_core.report(module))
