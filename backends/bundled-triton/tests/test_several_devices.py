"""Models over several GPUs, and several processes that train one model."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kernels_bundled_triton import bundled_mapping
from kernels_core import Mode, kernelize, report, use_kernel_forward_from_hub

WORKER = Path(__file__).with_name("train_worker.py")


@use_kernel_forward_from_hub("RMSNorm")
class Norm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size))
        self.variance_epsilon = 1e-5

    def forward(self, hidden_states: Tensor) -> Tensor:
        return functional.rms_norm(hidden_states, self.weight.shape, self.weight, 1e-5)


class Split(nn.Module):
    """A norm on each of two devices."""

    def __init__(self, first: torch.device, second: torch.device) -> None:
        super().__init__()
        self.first, self.second = Norm(64).to(first), Norm(64).to(second)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).to(self.second.weight.device))


def test_a_model_over_two_gpus_runs_each_kernel_where_its_layer_is(
    kernel: ModuleType, device: torch.device
) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    model = Split(first, second)
    x = torch.randn(4, 64, device=first)
    before = model(x)
    kernelize(model, mode=Mode.TRAINING, mapping=bundled_mapping("cuda"), use_fallback=False)
    assert {str(row.device) for row in report(model).rows} == {"cuda:0", "cuda:1"}
    after = model(x)
    torch.testing.assert_close(after, before)
    after.sum().backward()
    assert model.first.weight.grad.device == first
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(model(x), before)


@pytest.mark.parametrize("wrapper", ["DDP", "FSDP2"])
def test_two_processes_train_as_without_kernels(
    kernel: ModuleType, device: torch.device, wrapper: str, tmp_path: Path
) -> None:
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    # They meet in a file: a free port may be taken by the time that it is used.
    meeting = tmp_path / "store"
    processes = []
    for rank in range(2):
        command = [sys.executable, str(WORKER), wrapper, device.type, str(rank), str(meeting)]
        processes.append(
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    said = [process.communicate(timeout=180)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    assert all("gradients agree" in text for text in said)


def test_a_tensor_that_is_spread_over_devices_is_refused_by_name(
    kernel: ModuleType, device: torch.device
) -> None:
    from torch.distributed import HashStore, destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, distribute_tensor

    init_process_group(
        "nccl" if device.type == "cuda" else "gloo", store=HashStore(), rank=0, world_size=1
    )
    try:
        mesh = init_device_mesh(device.type, (1,))
        x, weight = (
            distribute_tensor(torch.ones(shape, device=device), mesh, [Replicate()])
            for shape in ((2, 8), (8,))
        )
        with pytest.raises(NotImplementedError, match=r"rms_norm.*sharding strategy"):
            kernel.rms_norm(x, weight, 1e-5)
    finally:
        destroy_process_group()
