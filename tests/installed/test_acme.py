"""A vendor's device and its plugin, installed with the core's wheel, which knows neither.

`tests/plugins/kernels-backend-acme` makes torch have a device named acme. Models are really moved
there, and `kernelize` finds the device's kernels as it does for any other.
"""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path

import pytest

ACME = Path(__file__).parents[1] / "plugins" / "kernels-backend-acme"


@pytest.fixture(scope="module")
def acme(core_wheel, backend_wheels, build_wheel, make_environment):
    """The core, acme's plugin and the CPU's; torch and what tests need are borrowed."""
    made = make_environment()
    made.borrow("torch", "pytest", "hypothesis")
    made.install(core_wheel.path, backend_wheels["cpu"].path, build_wheel(ACME).path)
    return made


@pytest.fixture
def run(acme, tmp_path):
    """Run a program after the PRELUDE; `folder` is an empty folder."""

    def run(code, prelude=PRELUDE, **variables):
        program = f"folder = {str(tmp_path)!r}\n{prelude}\n{code}\n{END}"
        return acme.run(program, **variables)

    return run


# The thread in which torch runs backward on a device may still release Python objects, and aborts
# if Python has been finalized by then.
END = """
import os, sys
sys.stdout.flush()
os._exit(0)
"""

PRELUDE = '''
from pathlib import Path
import torch
from torch import nn
from kernels_backend_acme.plugin import Lanes
from kernels_core import (
    Device, Features, LocalLayerRepository, Mode, bundled_mapping, get_kernel_variants,
    get_local_kernel, kernelize, register_kernel_mapping, report, unkernelize,
    use_kernel_forward_from_hub,
)

torch.manual_seed(0)


@use_kernel_forward_from_hub("RMSNorm")
class RMSNorm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size))
        self.variance_epsilon = 1e-6

    def forward(self, hidden_states):
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        return self.weight * hidden_states * torch.rsqrt(variance + self.variance_epsilon)


@use_kernel_forward_from_hub("Scale")
class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.weight * x


def make_model():
    return nn.Sequential(nn.Linear(8, 8), RMSNorm(8), nn.GELU(), nn.Linear(8, 8), RMSNorm(8))


def times(factor, variants=("torch-acme",)):
    """A kernel that multiplies by a factor, which shows that it ran."""
    repository = Path(folder, f"times-{factor}")
    for variant in variants:
        build = repository / "build" / variant
        build.mkdir(parents=True)
        (build / "__init__.py").write_text("from . import layers")
        (build / "layers.py").write_text(f"""
from torch import nn

class Scale(nn.Module):
    def forward(self, x):
        return {factor} * self.weight * x
""")
    return LocalLayerRepository(repository, layer_name="Scale")


def factor(module, device):
    """What a kernelized Scale multiplies by."""
    result = module(torch.ones(1, device=device))
    assert str(result.device).startswith(device)
    return result.item()


def near(a, b):
    return torch.allclose(a.cpu(), b.cpu(), atol=1e-5)


def rows(model):
    """The decisions, without what differs between machines."""
    kept = ("layer_name", "device", "count", "backend", "kernel", "variant", "reason")
    return [{key: row[key] for key in kept} for row in report(model).to_dict()["layers"]]
'''


def test_everything_comes_from_the_wheels_alone(run, acme):
    code = """
import kernels_core, kernels_backend_acme.device
from importlib.metadata import entry_points
from kernels_core.plugins import registry
files = [kernels_core.__file__, kernels_backend_acme.device.__file__]
tell([files, sorted(registry().backends), registry().backend("acme").distribution,
      [point.value for point in entry_points(group="kernels_core.backends", name="acme")]])
"""
    files, backends, distribution, plugins = run(code)
    assert all(file.startswith(str(acme.folder)) for file in files)
    assert backends == ["acme", "cpu"]
    assert distribution == "kernels-backend-acme 1.0"
    assert plugins == ["kernels_backend_acme.plugin"]


def test_torch_really_has_the_device(run):
    code = """
linear = nn.Linear(3, 4)
x = torch.randn(2, 3)
expected = linear(x)
linear.to("acme")
result = linear(x.to("acme"))
try:
    linear(x)
except RuntimeError as error:
    refused = str(error)
tell([str(linear.weight.device), str(linear.bias.device), str(result.device),
      near(result, expected), str(torch.accelerator.current_accelerator()), refused])
"""
    weight, bias, result, near, accelerator, refused = run(code)
    assert (weight, bias, result) == ("acme:0", "acme:0", "acme:0")
    assert near
    assert accelerator == "acme"
    assert "cpu" in refused


def test_torch_and_its_extension_can_be_imported_in_either_order(run):
    for order in ("torch, kernels_backend_acme.device", "kernels_backend_acme.device, torch"):
        code = f"import {order}\ntell(str(torch.ones(1, device='acme').device))"
        assert run(code, prelude="") == "acme:0"


def test_a_moved_model_gets_the_kernels_of_its_device(run):
    code = """
from torch.utils._python_dispatch import TorchDispatchMode

class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operators, self.devices = set(), set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.operators.add(operator.name())
        self.devices |= {str(arg.device) for arg in args if isinstance(arg, torch.Tensor)}
        return operator(*args, **(kwargs or {}))

def watch(x):
    with Seen() as seen:
        result = model(x)
    return result, sorted(seen.operators), sorted(seen.devices)

x = torch.randn(2, 8)
model = make_model()
on_cpu = model(x)
model.to("acme")
x = x.to("acme")
before = watch(x)
register_kernel_mapping(bundled_mapping())
kernelize(model, mode=Mode.INFERENCE)
after = watch(x)
table = str(report(model))
repository = report(model).rows[0].repository
kernelized = rows(model)
unkernelize(model)
undone = watch(x)
tell([kernelized, table, repository, before[1:], after[1:], undone[1:],
      [near(result, on_cpu) for result in (before[0], after[0], undone[0])],
      [type(module) is RMSNorm for module in (model[1], model[4])], str(after[0].device)])
"""
    rows, table, repository, before, after, undone, near, types, device = run(code)
    assert rows == [
        {
            "layer_name": "RMSNorm",
            "device": "acme:0",
            "count": 2,
            "backend": "acme",
            "kernel": "RMSNorm",
            "variant": "torch-acme",
            "reason": "",
        }
    ]
    assert "acme:0" in table
    assert Path(repository).parent.name == "kernels_backend_acme"
    assert "aten::pow.Tensor_Scalar" in before[0]
    assert before[0] != after[0]
    assert device == "acme:0"
    assert before[1] == after[1] == ["acme:0"]
    assert undone == before
    assert near == [True, True, True]
    assert types == [True, True]


def test_training_goes_through_the_kernel(run):
    code = """
x = torch.randn(2, 8)
model = make_model()
model(x).pow(2).sum().backward()
expected = [parameter.grad for parameter in model.parameters()]
model.zero_grad()
model.to("acme")
register_kernel_mapping(bundled_mapping())
kernelize(model, mode=Mode.TRAINING)
model(x.to("acme")).pow(2).sum().backward()
tell([rows(model)[0]["kernel"], [
    [str(parameter.grad.device), near(parameter.grad, gradient)]
    for parameter, gradient in zip(model.parameters(), expected)
]])
"""
    kernel, gradients = run(code)
    assert kernel == "RMSNorm"
    assert len(gradients) == 6
    assert all(gradient == ["acme:0", True] for gradient in gradients)


def test_a_model_over_two_backends_gets_the_right_kernel_for_each_part(run):
    code = """
model = nn.ModuleDict({"near": make_model(), "far": make_model().to("acme")})
x = torch.randn(2, 8)
expected = model["near"](x), model["far"](x.to("acme"))
register_kernel_mapping(bundled_mapping())
kernelize(model, mode=Mode.INFERENCE)
tell([rows(model), near(model["near"](x), expected[0]),
      near(model["far"](x.to("acme")), expected[1]), str(model["far"](x.to("acme")).device)])
"""
    rows, near, far, device = run(code)
    decided = {row["device"]: (row["backend"], row["variant"], row["count"]) for row in rows}
    assert decided == {"cpu": ("cpu", "torch-cpu", 2), "acme:0": ("acme", "torch-acme", 2)}
    assert (near, far, device) == (True, True, "acme:0")


def test_requirements_of_the_vendor_fit_each_device_or_say_why_not(run):
    # Two devices, of 64 and 128 lanes.
    code = """
register_kernel_mapping({"Scale": {
    Device("acme", Lanes(32)): times(32),
    Device("acme", Lanes(128)): times(128),
    Device("acme", Lanes(256)): times(256),
    Device("acme", Features(["tensor_lanes"])): times(1),
}})
model = nn.ModuleList([Scale().to("acme:0"), Scale().to("acme:1")])
kernelize(model, mode=Mode.INFERENCE)
factors = [factor(model[0], "acme:0"), factor(model[1], "acme:1")]
register_kernel_mapping({"Scale": {
    Device("acme", Lanes(256)): times(512), Device("acme", Features(["tensor_lanes"])): times(2),
}}, inherit_mapping=False)
kernelize(model, mode=Mode.INFERENCE)
reasons = {row["device"]: row["reason"] for row in rows(model)}
try:
    kernelize(model, mode=Mode.INFERENCE, use_fallback=False)
except ValueError as error:
    refused = f"{type(error).__name__}: {error}"
try:
    Device("cpu", Lanes(64))
except ValueError as error:
    mismatched = str(error)
tell([factors, reasons, refused, mismatched])
"""
    factors, reasons, refused, mismatched = run(code)
    assert factors == [32, 128]
    assert set(reasons) == {"acme:0", "acme:1"}
    assert "no entry fits Acme One" in reasons["acme:0"]
    assert "it has 64 lanes, and 256 are required" in reasons["acme:0"]
    assert "it has 128 lanes, and 256 are required" in reasons["acme:1"]
    assert "backend 'acme' does not support Features" in reasons["acme:0"]
    assert refused.startswith("NoKernelError: ")
    assert mismatched == "Lanes belongs to device type 'acme', not 'cpu'."


def test_tags_of_the_vendor_are_read_and_matched(run):
    # Acme's runtime is 1.2.
    code = """
from kernels_core.host import host_info
from kernels_core.plugins import registry

host = host_info()
major, minor = host.torch.release
native = "torch%d%d-{}-%s-%s" % (major, minor, host.cpu, host.os)
tags = ["acme12", "acme11", "acme13", "acme110", "acme22", "acme012", "cpu"]
repository = times(12, [*map(native.format, tags), "torch-acme", "torch-universal"])
decisions = get_kernel_variants(repository.repo_path)
register_kernel_mapping({"Scale": {"acme": repository}})
model = kernelize(Scale().to("acme"), mode=Mode.INFERENCE)
tell([native, [decision.name for decision in decisions if decision.accepted],
      {decision.name: decision.reason for decision in decisions if not decision.accepted},
      registry().parse_tag("acme110").version, rows(model)[0]["variant"], factor(model, "acme")])
"""
    native, accepted, reasons, version, variant, factor = run(code)
    best = [native.format("acme12"), native.format("acme11")]
    assert platform.machine().lower() in native or native.endswith(("darwin", "windows"))
    assert accepted == [*best, "torch-acme", "torch-universal"]
    assert reasons == {
        native.format("acme13"): "acme13 does not run on runtime 1.2",
        native.format("acme110"): "acme110 does not run on runtime 1.2",
        native.format("acme22"): "acme22 does not run on runtime 1.2",
        native.format("acme012"): "no installed backend plugin supports tag 'acme012'",
        native.format("cpu"): "made for backend 'cpu'; the active backend is 'acme'",
    }
    assert version == [1, 10]
    assert (variant, factor) == (best[0], 12)


def test_the_rule_of_the_vendor_has_the_last_word_in_selection(run):
    # The core would prefer the entry that requires more; acme prefers the exact mode.
    code = """
register_kernel_mapping({"Scale": {
    Device("acme", Lanes(64)): {Mode.TRAINING: times(64)},
    "acme": {Mode.INFERENCE: times(1000)},
}})
model = Scale().to("acme")
inference = factor(kernelize(model, mode=Mode.INFERENCE), "acme")
training = factor(kernelize(model, mode=Mode.TRAINING), "acme")
tell([inference, training])
"""
    assert run(code) == [1000, 64]


def test_the_device_is_the_default_and_can_be_named(run):
    code = """
repository = times(3, ["torch-acme", "torch-cpu"])
default, named = get_local_kernel(repository.repo_path), get_local_kernel(
    repository.repo_path, backend="cpu")
register_kernel_mapping({"Scale": {"acme": repository}})
model = kernelize(nn.ModuleList([Scale()]), mode=Mode.INFERENCE, device="acme:1").to("acme:1")
try:
    kernelize(model, mode=Mode.INFERENCE, device="acme:2")
except RuntimeError as error:
    refused = str(error)
tell([Path(default.__file__).parent.name, Path(named.__file__).parent.name,
      factor(model[0], "acme:1"), refused])
"""
    default, named, factor, refused = run(code)
    assert (default, named, factor) == ("torch-acme", "torch-cpu", 3)
    assert "acme:2" in refused
    assert "2 devices" in refused


def test_finding_and_describing_the_device_opens_none(run):
    code = """
from kernels_core.plugins import registry
backend = registry().backend_for("acme")
found = [backend.detection().runtime_version, backend.device_facts(1).lanes]
before = torch.acme.is_initialized()
torch.ones(1, device="acme")
tell([found, before, torch.acme.is_initialized()])
"""
    assert run(code) == [["1.2", 128], False, True]


def test_without_its_extension_of_torch_the_backend_says_so(run):
    code = """
import sys
from kernels_core.plugins import registry
reads = str(registry().parse_tag("acme12"))
imported = "torch" in sys.modules
detection = registry().backend("acme").detection()
from torch import nn
from kernels_core import Mode, kernelize
try:
    kernelize(nn.Linear(2, 2), mode=Mode.INFERENCE, device="acme")
except Exception as error:
    tell([reads, imported, detection.device_count, detection.reason,
          type(error).__name__, str(error), registry().default_backend().name])
"""
    told = run(code, prelude="", TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    reads, imported, count, reason, name, message, default = told
    assert reads == "acme12"
    assert not imported
    assert count == 0
    assert "extension of torch is not loaded" in reason
    assert name == "BackendUnavailableError"
    assert reason in message
    assert default == "cpu"


def test_the_doctor_shows_its_devices(acme):
    process = acme.command("doctor", "--json")
    assert process.returncode == 0, process.stdout + process.stderr
    found = json.loads(process.stdout)
    (backend,) = [backend for backend in found["backends"] if backend["name"] == "acme"]
    assert backend["distribution"] == "kernels-backend-acme 1.0"
    assert [device["lanes"] for device in backend["devices"]] == [64, 128]
    assert found["active"]["acme"]["backend"] == found["default"]["backend"] == "acme"


def test_the_plugin_passes_the_conformance_kit(run):
    code = f"""
import shutil, subprocess, sys
shutil.copytree({str(ACME / "tests")!r}, folder, dirs_exist_ok=True)
command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-ra", folder]
process = subprocess.run(command, capture_output=True, text=True)
tell([process.returncode, process.stdout + process.stderr])
"""
    status, output = run(code, prelude="")
    assert status == 0, output
    assert re.search(r"[0-9]+ passed", output)
