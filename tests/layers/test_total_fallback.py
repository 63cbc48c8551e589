"""Under KernelizeFallback.ALL only malformed arguments raise: forwards stay, and it is said.

Each case also raises under the other policies, as a program that did not ask for this expects.
"""

import pytest
import torch
from layers.models import Scale
from torch import nn

import kernels_core
from kernels_backend_cpu import plugin as cpu_plugin
from kernels_core import (
    KernelizeFallback,
    Mode,
    hookimpl,
    kernelize,
    notices,
    plan,
    plugins,
    replace_kernel_forward_from_hub,
    use_kernel_forward_from_hub,
    use_kernelized_func,
)

ALL = KernelizeFallback.ALL
EVERY_OTHER = (True, False, ALL & ~KernelizeFallback.NO_LAYER)


@pytest.fixture(autouse=True)
def _new_process(monkeypatch):
    monkeypatch.setattr(notices, "_said", {})
    yield
    monkeypatch.undo()
    plugins.reset()


def check(model, mapping, text, *, error=Exception, others=(True, False), **arguments):
    """The model keeps its forwards, with one warning that has the text; other policies raise."""
    arguments = {"mode": Mode.INFERENCE, "mapping": mapping, **arguments}
    classes = [type(module) for module in model.modules()]
    for policy in others:
        with pytest.raises(error):
            kernelize(model, use_fallback=policy, **arguments)
    planned = plan(model, use_fallback=ALL, **arguments)
    assert planned.rows[0].decision
    with pytest.warns(RuntimeWarning) as said:
        assert kernelize(model, use_fallback=ALL, **arguments) is model
    assert len(said) == 1, [str(warning.message) for warning in said]
    assert text in str(said[0].message)
    assert said[0].filename == __file__
    rows = kernels_core.report(model).rows
    assert any(text.partition("\n")[0] in row.reason for row in rows if not row.kernel)
    assert [type(module) for module in model.modules()] == classes


# Devices


@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize(
    ("device", "text"),
    [
        ("warp", "no plugin provides 'warp'"),
        ("warp:3", "no plugin provides 'warp'"),
        ("cuda", "kernels-backend-cuda"),
        ("rocm:1", "kernels-backend-rocm"),
        (torch.device("xpu", 0), "kernels-backend-xpu"),
        (kernels_core.Device("mps"), "kernels-backend-mps"),
        (torch.device("meta"), "no plugin provides 'meta'"),
        ("cpu:7", "no device cpu:7"),
    ],
    ids=str,
)
def test_a_device_that_cannot_be_used(scaled, device, text):
    mapping = {"Scale": {"cpu": scaled("Times10"), "cuda": scaled("Times10")}}
    model = Scale()
    check(model, mapping, text, others=EVERY_OTHER, device=device)
    named = device.type if isinstance(device, kernels_core.Device) else str(device)
    assert kernels_core.report(model).rows[0].device == named


def test_no_device_at_all(make_kernel):
    @use_kernel_forward_from_hub("Gate")
    class Gate(nn.Module):
        def forward(self, x):
            return x

    mapping = {"Gate": {"cpu": make_kernel("class Gate(nn.Module): pass")("Gate")}}
    check(Gate(), mapping, "Pass device=", others=EVERY_OTHER, error=ValueError)
    check(Gate(), mapping, "no plugin provides 'warp'", others=EVERY_OTHER, device="warp")


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("KERNELS_BACKEND", "warp", "KERNELS_BACKEND=warp"),
        ("KERNELS_BUNDLED", "perhaps", "KERNELS_BUNDLED"),
        ("DISABLE_KERNEL_MAPPING", "perhaps", "DISABLE_KERNEL_MAPPING"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", None])
def test_a_wrong_environment(scaled, monkeypatch, variable, value, text, device):
    monkeypatch.setenv(variable, value)
    mapping = {"Scale": {"cpu": scaled("Times10")}}
    check(Scale(), mapping, text, others=EVERY_OTHER, device=device, error=ValueError)


@pytest.mark.parametrize("device", ["cpu", None])
def test_a_backend_that_the_environment_names_and_disables(scaled, monkeypatch, device):
    monkeypatch.setenv("KERNELS_BACKEND", "rocm")
    monkeypatch.setenv("KERNELS_DISABLED_BACKENDS", "rocm")
    plugins.reset()
    mapping = {"Scale": {"cpu": scaled("Times10")}}
    check(Scale(), mapping, "KERNELS_BACKEND=rocm", others=EVERY_OTHER, device=device)


def test_a_requested_backend_that_is_disabled(scaled, monkeypatch):
    monkeypatch.setenv("KERNELS_BACKENDS", "cuda")
    plugins.reset()
    mapping = {"Scale": {"cpu": scaled("Times10")}}
    check(Scale(), mapping, "KERNELS_BACKENDS", others=EVERY_OTHER, device="cpu")


def _raising(*arguments):
    raise RuntimeError("the driver is gone")


@pytest.mark.parametrize(
    ("hook", "arguments", "raises"),
    [
        ("kernels_detect", "host", True),
        ("kernels_device_facts", "index", True),
        ("kernels_select", "request, candidates", True),
    ],
)
@pytest.mark.filterwarnings("ignore:Backend plugin:RuntimeWarning")
def test_a_backend_that_fails(scaled, monkeypatch, hook, arguments, raises):
    scope = {"_raising": _raising}
    exec(f"def {hook}({arguments}):\n    _raising()", scope)
    monkeypatch.setattr(cpu_plugin, hook, hookimpl(scope[hook]), raising=False)
    plugins.reset()
    model, mapping = Scale(), {"Scale": {"cpu": scaled("Times10")}}
    with pytest.warns(RuntimeWarning) as said:
        kernelize(model, mode=Mode.INFERENCE, mapping=mapping, use_fallback=ALL, device="cpu")
    assert "the driver is gone" in str(said[-1].message)
    assert "the driver is gone" in kernels_core.report(model).rows[0].reason
    with pytest.raises(RuntimeError):
        kernelize(model, mode=Mode.INFERENCE, mapping=mapping, device="cpu")


# Repositories


class Panic(BaseException):
    """As a panic in native code, which is no Exception."""


def raiser(error):
    class Failing:
        def load(self):
            raise error

    return Failing()


@pytest.mark.parametrize(
    "error",
    [RuntimeError("no"), SystemExit("no"), Panic("no"), KeyError("no"), RecursionError("no")],
    ids=lambda error: type(error).__name__,
)
def test_a_repository_that_raises_anything(error):
    text = f"{type(error).__name__}: "
    check(Scale(), {"Scale": {"cpu": raiser(error)}}, text, error=ImportError)


def test_ctrl_c_is_no_reason_to_go_on():
    with pytest.raises(KeyboardInterrupt):
        kernelize(
            Scale(),
            mode=Mode.INFERENCE,
            mapping={"Scale": {"cpu": raiser(KeyboardInterrupt())}},
            use_fallback=ALL,
        )


class Nameless:
    def load(self):
        raise RuntimeError("no layer")

    def __str__(self):
        raise RuntimeError("no name")

    __repr__ = __str__


class Unequal:
    def load(self):
        raise RuntimeError("no layer")

    def __hash__(self):
        raise RuntimeError("no hash")


class WordlessError(RuntimeError):
    def __str__(self):
        raise RuntimeError("no words")


class Unspeakable:
    def load(self):
        raise WordlessError


@pytest.mark.parametrize(
    ("repository", "text"),
    [(Nameless(), "no layer"), (Unequal(), "no layer"), (Unspeakable(), "Wordless")],
)
def test_a_repository_that_fails_at_everything(repository, text):
    check(Scale(), {"Scale": {"cpu": repository}}, text)


@pytest.mark.parametrize("variable", ["LOCAL_KERNELS", "KERNELS_HUB_PATIENCE"])
def test_a_wrong_environment_for_repositories(monkeypatch, variable):
    monkeypatch.setenv(variable, "nonsense")
    hub = kernels_core.LayerRepository("org/name", "Scale", version=1)
    check(Scale(), {"Scale": {"cpu": hub}}, variable, error=ValueError)


@pytest.mark.parametrize(
    ("mode", "lacking"),
    [(Mode.TRAINING, "backward"), (Mode.INFERENCE | Mode.TORCH_COMPILE, "torch.compile")],
)
def test_an_entry_for_a_mode_that_its_layer_lacks(scaled, mode, lacking):
    entry = {mode: scaled("InferenceOnly")}
    text = f"does not support {lacking}"
    check(Scale(), {"Scale": {"cpu": entry}}, text, others=EVERY_OTHER, mode=mode)
    both = {mode: [scaled("InferenceOnly"), scaled("Times10")]}
    notices._said.clear()
    with pytest.warns(RuntimeWarning, match=f"(?s)gets Times10.*does not support {lacking}"):
        model = kernelize(Scale(), mode=mode, mapping={"Scale": {"cpu": both}}, use_fallback=ALL)
    assert kernels_core.report(model).rows[0].kernel == "Times10"


# Validation


def test_conditions_that_raise(scaled, make_kernel):
    def condition(module):
        raise LookupError("no answer")

    class Asking(Scale):
        pass

    replace_kernel_forward_from_hub(Asking, "Asking", condition)
    mapping = {"Scale": {"cpu": scaled("Times10")}, "Asking": {"cpu": scaled("Times10")}}
    check(Asking(), mapping, "its condition raised LookupError: no answer", error=LookupError)
    model = nn.Sequential(Asking(), Scale())
    kernelize(model, mode=Mode.INFERENCE, mapping=mapping, use_fallback=ALL)
    assert [row.kernel for row in kernels_core.report(model).rows] == [None, "Times10"]


def test_a_condition_of_a_function_that_raises(make_kernel):
    def condition(module):
        raise LookupError("no answer")

    @use_kernel_forward_from_hub("plus", condition)
    def plus(x):
        return x + 1

    @use_kernelized_func(plus)
    class Owner(nn.Linear):
        pass

    kernel = make_kernel("class Plus(nn.Module):\n    def forward(self, x): return x + 2")
    mapping = {"plus": {"cpu": kernel("Plus")}}
    check(Owner(1, 1), mapping, "its condition raised LookupError: no answer", error=LookupError)


@pytest.mark.parametrize("error", ["ZeroDivisionError", "SystemExit"])
def test_a_condition_of_the_kernel_that_raises(make_kernel, error):
    kernel = make_kernel(
        f"""
        from typing import Annotated


        def picky(weight):
            raise {error}("oops")


        class Picky(nn.Module):
            weight: Annotated[torch.Tensor, picky]

            def forward(self, x): return x
        """
    )
    text = f"{error}: oops"
    check(Scale(), {"Scale": {"cpu": kernel("Picky")}}, text, error=TypeError)


def test_modules_that_cannot_be_read(scaled):
    class Sharded(torch.Tensor):
        @property
        def device(self):
            raise RuntimeError("on several devices")

    model = Scale()
    model.weight = nn.Parameter(torch.ones(()).as_subclass(Sharded))
    arguments = {"mode": Mode.INFERENCE, "mapping": {"Scale": {"cpu": scaled("Times10")}}}
    with pytest.raises(RuntimeError, match="on several devices"):
        kernelize(model, **arguments)
    with pytest.warns(RuntimeWarning, match=r"every forward of Scale: .*on several devices"):
        kernelize(model, use_fallback=ALL, **arguments)
    assert type(model) is Scale


def test_a_member_that_raises(scaled):
    class Lazy(Scale):
        @property
        def bias(self):
            raise RuntimeError("not built yet")

    check(Lazy(), {"Scale": {"cpu": scaled("NeedsBias")}}, "not built yet")


@pytest.mark.parametrize("error", [TypeError, AttributeError, RuntimeError])
def test_a_module_that_refuses_another_class(scaled, error):
    class Frozen(Scale):
        def __setattr__(self, name, value):
            if name == "__class__":
                raise error("it is frozen")
            super().__setattr__(name, value)

    mapping = {"Scale": {"cpu": scaled("Times10")}}
    check(Frozen(), mapping, "it is frozen")
    model = nn.Sequential(Scale(), Frozen(), Scale())
    kernelize(model, mode=Mode.INFERENCE, mapping=mapping, use_fallback=ALL)
    assert [type(module).__bases__[0] for module in model] == [Scale, Scale, Scale]
    assert [row.kernel for row in kernels_core.report(model).rows] == ["Times10", None]
