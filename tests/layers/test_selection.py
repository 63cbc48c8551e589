"""Which entry of a mapping wins, on recorded CUDA machines, since this machine may have no GPU."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

import kernels_core
from kernels_backend_cuda import _probe
from kernels_core import (
    CUDAProperties,
    Device,
    Features,
    Mode,
    ROCMProperties,
    errors,
    hookimpl,
    kernelize,
    plugins,
    register_kernel_mapping,
    use_kernel_forward_from_hub,
)

RUNTIME = {"cuda": "13.0", "driver": (13, 0)}
A100 = _probe.Gpu("NVIDIA A100-SXM4-80GB", 8, 0, 84987740160)
H200 = _probe.Gpu("NVIDIA H200", 9, 0, 150109880320)


@use_kernel_forward_from_hub("Layer")
class Layer(nn.Module):
    def forward(self, x):
        return 0


@pytest.fixture
def recorded(monkeypatch):
    """Let the CUDA plugin see the GPUs of a recorded machine."""

    def see(*gpus):
        plugins.reset()
        monkeypatch.setattr(
            _probe, "runtime", lambda: _probe.Runtime(**RUNTIME, device_count=len(gpus))
        )
        monkeypatch.setattr(_probe, "gpu", lambda index: gpus[index])

    yield see
    plugins.reset()


@pytest.fixture
def kernel(make_kernel):
    """Layers that return their number, from a build that fits every backend."""
    return make_kernel(
        "\n".join(
            f"class L{number}(nn.Module):\n"
            f"    has_backward = {number != 9}\n"
            f"    can_torch_compile = {number == 5}\n"
            f"    def forward(self, x): return {number}\n"
            for number in range(10)
        ),
        variant="torch-universal",
    )


def chosen(mode=Mode.INFERENCE, device="cuda:0", **arguments):
    module = kernelize(Layer(), mode=mode, device=device, **arguments)
    return module(None)


def cuda(least, most):
    return Device("cuda", CUDAProperties(least, most))


def test_the_narrowest_range_that_fits_wins(recorded, kernel):
    recorded(H200)
    register_kernel_mapping(
        {
            "Layer": {
                "cuda": kernel("L1"),
                cuda(75, 100): kernel("L2"),
                cuda(80, 90): kernel("L3"),
                cuda(70, 89): kernel("L4"),
            }
        }
    )
    assert chosen() == 3


def test_without_a_fitting_range_the_entry_for_any_device_serves(recorded, kernel):
    recorded(H200)
    register_kernel_mapping({"Layer": {cuda(75, 89): kernel("L1"), "cuda": kernel("L2")}})
    assert chosen() == 2


def test_if_no_range_fits_the_error_gives_every_reason(recorded, kernel):
    recorded(H200)
    register_kernel_mapping({"Layer": {cuda(75, 80): kernel("L1"), cuda(100, 120): kernel("L2")}})
    with pytest.raises(ValueError, match="no entry fits NVIDIA H200") as caught:
        chosen(use_fallback=False)
    assert "75 to 80" in str(caught.value)
    assert "100 to 120" in str(caught.value)
    assert (caught.value.layer, caught.value.reason[:12]) == ("Layer", "no entry fit")
    module = kernelize(Layer(), mode=Mode.INFERENCE, device="cuda:0")
    assert kernels_core.report(module).rows[0].backend == "cuda"
    assert chosen(use_fallback=kernels_core.KernelizeFallback.NO_COMPATIBLE_PROPERTIES) == 0
    register_kernel_mapping({"Layer": {cuda(90, 90): {Mode.TRAINING: kernel("L1")}}})
    with pytest.raises(
        ValueError, match=r"serves INFERENCE\|TORCH_COMPILE; there are entries for TRAINING\."
    ):
        chosen(Mode.INFERENCE | Mode.TORCH_COMPILE, use_fallback=False)


def test_a_narrow_entry_without_a_usable_mode_does_not_hide_a_wider_one(recorded, kernel):
    recorded(H200)
    register_kernel_mapping(
        {
            "Layer": {
                cuda(90, 90): {Mode.TRAINING | Mode.TORCH_COMPILE: kernel("L5")},
                cuda(80, 90): {Mode.INFERENCE | Mode.TORCH_COMPILE: kernel("L5")},
                "cuda": {Mode.FALLBACK: kernel("L2"), Mode.INFERENCE: kernel("L3")},
            }
        }
    )
    assert chosen(Mode.INFERENCE | Mode.TORCH_COMPILE) == 5
    assert chosen(Mode.INFERENCE) == 5
    register_kernel_mapping({"Layer": {cuda(90, 90): {Mode.TRAINING: kernel("L4")}}})
    assert chosen(Mode.INFERENCE) == 4, "device first, then the order of modes"
    assert chosen(Mode.TRAINING | Mode.TORCH_COMPILE) == 0
    register_kernel_mapping({"Layer": {cuda(90, 90): {Mode.INFERENCE: kernel("L6")}}})
    assert chosen(Mode.TRAINING) == 2


def test_a_layer_that_lacks_the_mode_gives_way_to_the_next_candidate(recorded, kernel):
    recorded(H200)
    register_kernel_mapping({"Layer": {cuda(90, 90): kernel("L9"), "cuda": kernel("L1")}})
    assert chosen(Mode.INFERENCE) == 9
    assert chosen(Mode.TRAINING) == 1, "L9 has no backward, and was not registered for training"


def test_a_build_that_does_not_fit_gives_way_to_the_next_candidate(recorded, kernel, make_kernel):
    recorded(H200)
    other = make_kernel("class L7(nn.Module): pass", variant="torch-metal", name="other")
    register_kernel_mapping({"Layer": {cuda(90, 90): other("L7")}})
    forbidden = kernels_core.KernelizeFallback.ALL & ~kernels_core.KernelizeFallback.NO_BUILD
    with pytest.raises(errors.NoFittingBuildError, match="torch-metal"):
        chosen(use_fallback=forbidden)
    register_kernel_mapping({"Layer": {cuda(90, 90): other("L7"), "cuda": kernel("L1")}})
    assert chosen() == 1
    assert chosen(use_fallback=False) == 1


def test_of_two_equally_specific_entries_the_first_registered_wins(recorded, kernel):
    recorded(H200)
    register_kernel_mapping({"Layer": {cuda(85, 95): kernel("L1"), cuda(81, 91): kernel("L2")}})
    assert chosen() == 1


def test_each_device_of_a_machine_gets_its_own(recorded, kernel):
    recorded(A100, H200)
    register_kernel_mapping({"Layer": {cuda(80, 89): kernel("L1"), cuda(90, 99): kernel("L2")}})
    assert chosen(device="cuda:0") == 1
    assert chosen(device="cuda:1") == 2
    assert chosen(device=torch.device("cuda", 1)) == 2
    with pytest.raises(RuntimeError, match=r"no device cuda:2: .* found 2 devices\.") as caught:
        chosen(device="cuda:2")
    assert caught.value.backend == "cuda"
    recorded(H200)
    with pytest.raises(RuntimeError, match=r"no device cuda:1: .* found 1 device\."):
        chosen(device="cuda:1")


def test_tensors_on_a_device_without_a_backend_keep_their_layers_forward(kernel):
    @use_kernel_forward_from_hub("Layer")
    class Weighing(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.empty(1, device="xpu"))

        def forward(self, x):
            return 0

    register_kernel_mapping({"Layer": {"xpu": kernel("L1"), "cpu": kernel("L2")}})
    with FakeTensorMode():
        model = Weighing()
    kernelize(model, mode=Mode.INFERENCE)
    assert model(None) == 0
    assert "xpu" in kernels_core.report(model).rows[0].reason
    forbidden = kernels_core.KernelizeFallback.ALL & ~kernels_core.KernelizeFallback.NO_DEVICE
    with pytest.raises(errors.BackendUnavailableError, match="xpu"):
        kernelize(model, mode=Mode.INFERENCE, use_fallback=forbidden)


def test_the_build_is_the_one_for_the_modules_own_gpu(recorded, make_kernel):
    source = "class L(nn.Module):\n    def forward(self, x): return {}"
    kernel = make_kernel(source.format(1), variant="torch-cuda")
    make_kernel(source.format(2), variant="torch-universal")
    metadata = {"name": "kernel", "version": 1, "backend": {"type": "cuda", "archs": ["8.0"]}}
    build = kernel("L").repo_path / "build" / "torch-cuda"
    (build / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    recorded(A100, H200)
    register_kernel_mapping({"Layer": {"cuda": kernel("L")}})
    assert [chosen(device=device) for device in ("cuda:0", "cuda:1")] == [1, 2]


def test_a_device_without_an_index_is_the_current_one(recorded, kernel, monkeypatch):
    recorded(A100, H200)
    register_kernel_mapping({"Layer": {cuda(80, 89): kernel("L1"), cuda(90, 99): kernel("L2")}})
    for current, number in ((0, 1), (1, 2)):
        monkeypatch.setattr(torch.cuda, "current_device", lambda current=current: current)
        assert chosen(device="cuda") == number
        assert chosen(device=torch.device("cuda")) == number


def test_a_model_on_several_devices_gets_for_each_layer_the_kernel_for_its_own(recorded, kernel):
    @use_kernel_forward_from_hub("Layer")
    class Weighing(Layer):
        def __init__(self, device):
            super().__init__()
            self.weight = nn.Parameter(torch.empty(1, device=device))

        forward = Layer.forward

    recorded(A100, H200)
    register_kernel_mapping(
        {
            "Layer": {
                cuda(80, 89): kernel("L1"),
                cuda(90, 99): kernel("L2"),
                "cpu": kernel("L3"),
            }
        }
    )
    with FakeTensorMode():  # tensors that say that they are on a GPU, and need none
        devices = ("cuda:0", "cuda:1", "cpu", "cuda:0", "meta", "cuda:1")
        model = nn.Sequential(*map(Weighing, devices))
    model.append(nn.Sequential(Layer()))
    model.append(nn.Sequential(nn.Sequential(Layer()), Weighing("cpu")))
    kernelize(model, mode=Mode.INFERENCE)
    assert [layer(None) for layer in list(model)[:6]] == [1, 2, 3, 1, 0, 2]
    assert model[6][0](None) == 1, "without tensors near it, the model's first ones tell"
    assert model[7][0][0](None) == 3, "its nearest ancestor with tensors tells"
    rows = [row for row in kernels_core.report(model).rows if row.class_name.endswith("Weighing")]
    assert {row.device: row.count for row in rows} == {
        "cuda:0": 2,
        "cuda:1": 2,
        "cpu": 2,
        "meta": 1,
    }


def test_the_selection_hook_of_the_active_plugin_has_the_last_word(recorded, kernel, monkeypatch):
    from kernels_backend_cuda import plugin

    asked = []

    @hookimpl
    def kernels_select(request, candidates):
        asked.append((request.layer_name, request.mode, request.facts.name))
        assert [candidate.properties for candidate in candidates] == [CUDAProperties(90, 90), None]
        return sorted(candidates, key=lambda candidate: str(candidate.repository), reverse=True)

    monkeypatch.setattr(plugin, "kernels_select", kernels_select, raising=False)
    recorded(H200)
    other = kernel("L2")
    register_kernel_mapping({"Layer": {cuda(90, 90): kernel("L1"), "cuda": Last(other)}})
    assert chosen() == 2, "the general entry, which the core would have tried last"
    assert asked == [("Layer", Mode.INFERENCE, "NVIDIA H200")]


class Last:
    """A repository whose name comes last."""

    def __init__(self, repository):
        self._repository = repository

    def load(self):
        from kernels_core import get_local_kernel

        layers = get_local_kernel(self._repository.repo_path, backend="cpu").layers
        return getattr(layers, self._repository.layer_name)

    def __str__(self):
        return "~ last"


TIES = """
import kernels_core
from kernels_core import Device, Features, LocalLayerRepository, Mode
from kernels_core.plugins import registry
from torch import nn

known = sorted(registry().backend("cpu").device_facts(0).features)[:4]
cls = kernels_core.use_kernel_forward_from_hub("Layer")(type("Layer", (nn.Module,), {}))
entries = {
    Device("cpu", Features(set(known[i : i + 2]))): LocalLayerRepository(f"/{i}", layer_name="L")
    for i in (2, 0, 1)
}
planned = kernels_core.plan(
    cls(), mode=Mode.INFERENCE, device="cpu", mapping={"Layer": entries}
)
print(planned.rows[0].candidates)
"""


def test_ties_are_broken_in_the_same_way_in_every_process():
    said = {
        subprocess.run(
            [sys.executable, "-c", TIES],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert said == {"('/2 (FALLBACK)', '/0 (FALLBACK)', '/1 (FALLBACK)')\n"}


def test_entries_of_other_devices_do_not_matter(recorded, kernel):
    recorded(H200)
    register_kernel_mapping(
        {
            "Layer": {
                Device("rocm", ROCMProperties(0, 200)): kernel("L1"),
                Device("cpu", Features({"avx2"})): kernel("L2"),
                "acme": kernel("L3"),
            }
        }
    )
    assert chosen() == 0
    with pytest.raises(ValueError, match="for acme, cpu, rocm, not for cuda"):
        chosen(use_fallback=False)
    module = kernelize(Layer(), mode=Mode.INFERENCE, device="cuda:0")
    assert kernels_core.report(module).rows[0].backend == "cuda"


def test_a_kind_of_requirement_that_the_backend_does_not_know_never_fits(recorded, kernel):
    recorded(H200)
    register_kernel_mapping({"Layer": {Device("cuda", Features({"tensor cores"})): kernel("L1")}})
    assert chosen() == 0
    with pytest.raises(ValueError, match="Features"):
        chosen(use_fallback=False)
