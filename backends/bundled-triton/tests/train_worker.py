"""One of two processes that train a model: `train_worker.py DDP|FSDP2 cpu|cuda RANK FILE`.

Takes one step with kernels and one without, from the same weights on the same data, and compares.
"""

import copy
import os
import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from kernels_bundled_triton import bundled_mapping
from kernels_core import Mode, kernelize, report, use_kernel_forward_from_hub


@use_kernel_forward_from_hub("RMSNorm")
class Norm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size))
        self.variance_epsilon = 1e-5

    def forward(self, hidden_states: Tensor) -> Tensor:
        return functional.rms_norm(hidden_states, self.weight.shape, self.weight, 1e-5)


@use_kernel_forward_from_hub("SwiGLUMLP")
class MLP(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size, 2 * size, bias=False)
        self.up_proj = nn.Linear(size, 2 * size, bias=False)
        self.down_proj = nn.Linear(2 * size, size, bias=False)
        self.act_fn = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm, self.mlp = Norm(size), MLP(size)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


def step(model: nn.Module, wrapper: str, device: torch.device, x: Tensor) -> list[Tensor]:
    """The gradients of one step, whole."""
    if wrapper == "DDP":
        wrapped = DistributedDataParallel(model)
    else:
        mesh = init_device_mesh(device.type, (2,))
        for block in model:
            fully_shard(block, mesh=mesh)
        wrapped = fully_shard(model, mesh=mesh)
    wrapped(x).square().mean().backward()
    found = [parameter.grad for parameter in wrapped.parameters()]
    return [one.full_tensor() if hasattr(one, "full_tensor") else one for one in found]


def main() -> None:
    wrapper, device_type, number, meeting = sys.argv[1:]
    rank = int(number)
    backend = "nccl" if device_type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{meeting}", rank=rank, world_size=2)
    device = torch.device(device_type, rank) if device_type == "cuda" else torch.device("cpu")
    if device_type == "cuda":
        torch.cuda.set_device(device)
    torch.manual_seed(0)
    plain = nn.Sequential(Block(16), Block(16)).to(device)
    model = copy.deepcopy(plain)
    kernelize(model, mode=Mode.TRAINING, mapping=bundled_mapping(device_type), use_fallback=False)
    assert sum(row.count for row in report(model).rows if row.kernel) == 4
    torch.manual_seed(1 + rank)
    x = torch.randn(3, 16, device=device)
    expected = step(plain, wrapper, device, x)
    found = step(model, wrapper, device, x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    print("gradients agree", flush=True)
    # Threads of gloo may still run when the interpreter is taken down, which then aborts.
    dist.barrier()
    os._exit(0)


if __name__ == "__main__":
    main()
