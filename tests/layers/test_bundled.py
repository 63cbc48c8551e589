"""The kernels that the CPU backend bundles, used through kernelize: derivatives in float64."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

import kernels_core
from kernels_core import (
    Mode,
    bundled_mapping,
    kernelize,
    unkernelize,
    use_kernel_forward_from_hub,
    use_kernelized_func,
)


@use_kernel_forward_from_hub("RMSNorm")
class RMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(6))
        self.variance_epsilon = 1e-3

    def forward(self, hidden_states):
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        return self.weight * hidden_states * torch.rsqrt(variance + self.variance_epsilon)


@use_kernel_forward_from_hub("SwiGLUMLP")
class GatedMLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(6, 5), nn.Linear(6, 5)
        self.down_proj = nn.Linear(5, 6)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


@use_kernel_forward_from_hub("rotary_pos_emb")
def rotate(q, k, cos, sin, unsqueeze_dim=1):
    def turned(x):
        half = x.shape[-1] // 2
        return torch.cat((-x[..., half:], x[..., :half]), dim=-1)

    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return q * cos + turned(q) * sin, k * cos + turned(k) * sin


@use_kernelized_func(rotate)
class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(1))

    def forward(self, x):
        angles = torch.arange(4, dtype=x.dtype)
        q, k = rotate(x[None, None], self.scale * x[None, None], angles.cos()[None], angles[None])
        return q + k


@pytest.fixture(autouse=True)
def _undo_functions():
    torch.manual_seed(0)
    yield
    unkernelize(Attention())


@pytest.mark.parametrize(
    ("module", "kernel", "shape"),
    [
        (RMSNorm, "RMSNorm", (3, 6)),
        (GatedMLP, "SwiGLUMLP", (3, 6)),
        (Attention, "rotary_pos_emb", (3, 4)),
    ],
)
def test_derivatives_are_right_and_those_of_the_original(module, kernel, shape):
    model = module().double()
    names, weights = zip(*model.named_parameters(), strict=True)
    inputs = (torch.randn(shape, dtype=torch.float64, requires_grad=True), *weights)

    def run(x, *given):
        return functional_call(model, dict(zip(names, given, strict=True)), (x,))

    output = run(*inputs)
    gradients = torch.autograd.grad(output.square().sum(), inputs)
    kernelize(model, mode=Mode.TRAINING, mapping=bundled_mapping(), use_fallback=False)
    assert kernels_core.report(model).rows[0].kernel == kernel
    assert torch.autograd.gradcheck(run, inputs)
    torch.testing.assert_close(run(*inputs), output)
    ours = torch.autograd.grad(run(*inputs).square().sum(), inputs)
    torch.testing.assert_close(ours, gradients)


class OtherMembers(RMSNorm):
    def __init__(self):
        super().__init__()
        self.eps = self.__dict__.pop("variance_epsilon")

    def forward(self, hidden_states):
        return hidden_states * self.weight * self.eps


class OtherSignature(RMSNorm):
    def forward(self, hidden_states, residual):
        return hidden_states + residual


@pytest.mark.parametrize("cls", [OtherMembers, OtherSignature])
def test_a_class_of_the_name_that_does_not_suit_a_bundled_layer_keeps_its_forward(cls):
    extensible = use_kernel_forward_from_hub("RMSNorm")(type("Own", (cls,), dict(vars(cls))))
    model = nn.Sequential(extensible(), RMSNorm())
    with pytest.warns(RuntimeWarning, match="RMSNorm on cpu keeps its forward"):
        kernelize(model, mode=Mode.INFERENCE, mapping={}, bundled=True)
    kernels = {row.class_name: row.kernel for row in kernels_core.report(model).rows}
    assert kernels == {extensible.__qualname__: None, "RMSNorm": "RMSNorm"}
    with pytest.raises(kernels_core.errors.InvalidLayerError):
        kernelize(model, mode=Mode.INFERENCE, mapping={}, bundled=True, use_fallback=False)
    # What a user maps to it is a mistake of the user's.
    with pytest.raises(kernels_core.errors.InvalidLayerError):
        kernelize(model, mode=Mode.INFERENCE, mapping=bundled_mapping())
