"""The bundled layers compute what the layers of transformers compute, and no worse.

Each runs as `kernelize` runs it: its forward on an instance of the class that it is used for. The
reference is the same formula in float64.
"""

import importlib
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig
from transformers.activations import ACT2FN
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRMSNorm
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm, apply_rotary_pos_emb

from kernels_backend_cpu.bundled import bundled_mapping
from kernels_core import get_local_kernel

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture(scope="module")
def kernel() -> ModuleType:
    return get_local_kernel(bundled_mapping()["RMSNorm"]["cpu"].repo_path, backend="cpu")


@pytest.fixture(scope="module")
def layers(kernel: ModuleType) -> ModuleType:
    module: ModuleType = kernel.layers
    return module


@pytest.fixture(params=[True, False], ids=["recorded", "unrecorded"])
def recorded(request: pytest.FixtureRequest):
    """Whether autograd records, which decides what may be computed in place."""
    with torch.set_grad_enabled(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def strided(*shape: int) -> Tensor:
    """Random numbers that lie in memory with gaps, and with the dimensions in another order."""
    return torch.randn(*reversed(shape), 2)[..., 0].permute(*reversed(range(len(shape))))


def errors(result: Tensor, reference: Tensor) -> tuple[float, float]:
    """The greatest error, relative to the greatest value, and the error of the whole."""
    difference = result.double() - reference
    greatest = difference.abs().max() / reference.abs().max()
    return greatest.item(), (difference.norm() / reference.norm()).item()


def gradients(call: Callable[..., Tensor | tuple[Tensor, ...]], *tensors: Tensor) -> list[Tensor]:
    """Gradients of a fixed random mixture of the results, with respect to the tensors."""
    results = call()
    results = (results,) if isinstance(results, Tensor) else results
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(r.shape, generator=generator).to(r.dtype) for r in results]
    return list(torch.autograd.grad(results, tensors, weights))


# RMSNorm


def norm_of(size: int, dtype: torch.dtype = torch.float32, eps: float = 1e-5) -> LlamaRMSNorm:
    norm = LlamaRMSNorm(size, eps).to(dtype)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    return norm


def norm_reference(norm: LlamaRMSNorm, x: Tensor) -> Tensor:
    x = x.double()
    mean = x.square().mean(-1, keepdim=True)
    return x / torch.sqrt(mean + norm.variance_epsilon) * norm.weight.double()


@pytest.mark.parametrize(
    "shape", [(1, 64, 576), (3, 7, 577), (5, 1), (2, 3, 4, 33), (0, 4, 8), (8,)]
)
def test_norm_in_float32_is_bit_for_bit_that_of_llama(layers, recorded, shape):
    norm = norm_of(shape[-1])
    for x in (torch.randn(shape), strided(*shape), 1e-4 * torch.randn(shape)):
        result = layers.RMSNorm.forward(norm, x)
        assert torch.equal(result, norm(x))
        assert result.dtype == torch.float32


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [64, 577, 4096])
def test_norm_errs_no_more_than_that_of_llama(layers, recorded, dtype, size):
    norm, x = norm_of(size, dtype), torch.randn(32, size).to(dtype)
    reference = norm_reference(norm, x)
    theirs = errors(norm(x), reference)
    ours = errors(layers.RMSNorm.forward(norm, x), reference)
    assert ours <= theirs
    assert dtype == torch.float32 or ours[1] < theirs[1], "one rounding less"


def test_norm_neither_overflows_nor_vanishes_in_float16(layers, recorded):
    norm = norm_of(64, torch.float16, eps=0.0)
    for x in (torch.full((2, 64), 60000.0), torch.full((2, 64), 1e-6)):
        result = layers.RMSNorm.forward(norm, x.half())
        torch.testing.assert_close(result, norm.weight.expand(2, 64))


@pytest.mark.parametrize("dtype", HALVES)
def test_norm_returns_the_dtype_of_the_input_where_the_weight_is_wider(layers, recorded, dtype):
    # gpt-oss is loaded like this: the model in bfloat16, its norms in float32.
    norm = GptOssRMSNorm(64)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    x = torch.randn(4, 64).to(dtype)
    result = layers.RMSNorm.forward(norm, x)
    assert result.dtype == dtype
    assert torch.equal(result, norm(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_leaves_its_input_alone(layers, recorded, dtype):
    norm, x = norm_of(16, dtype), torch.randn(4, 16).to(dtype)
    before = x.clone()
    result = layers.RMSNorm.forward(norm, x)
    result.detach().zero_()
    assert torch.equal(x, before)


def test_norm_has_the_gradients_of_that_of_llama(layers):
    norm, x = norm_of(65), torch.randn(3, 5, 65, requires_grad=True)
    ours = gradients(lambda: layers.RMSNorm.forward(norm, x), x, norm.weight)
    for our, their in zip(ours, gradients(lambda: norm(x), x, norm.weight), strict=True):
        torch.testing.assert_close(our, their)


def test_norm_derivatives_are_right(kernel):
    x, weight = torch.randn(2, 5, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    x[0] = 0  # a padded row
    inputs = (x.requires_grad_(), weight.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, w: kernel.rms_norm(x, w, 1e-2), inputs)
    assert torch.autograd.gradgradcheck(lambda x, w: kernel.rms_norm(x, w, 1e-2), inputs)


# SwiGLUMLP


def mlp_of(dtype: torch.dtype = torch.float32, **changes) -> LlamaMLP:
    return LlamaMLP(
        LlamaConfig(hidden_size=24, intermediate_size=57, num_attention_heads=4, **changes)
    ).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 9, 24), (2, 3, 5, 24), (24,), (0, 4, 24)])
def test_mlp_is_bit_for_bit_that_of_llama(layers, recorded, dtype, shape):
    mlp = mlp_of(dtype, mlp_bias=True)
    for x in (torch.randn(shape), strided(*shape)):
        result = layers.SwiGLUMLP.forward(mlp, x.to(dtype))
        assert result.dtype == dtype
        assert torch.equal(result, mlp(x.to(dtype)))


def test_mlp_has_the_gradients_of_that_of_llama(layers):
    mlp, x = mlp_of(), torch.randn(2, 5, 24, requires_grad=True)
    inputs = (x, *mlp.parameters())
    ours = gradients(lambda: layers.SwiGLUMLP.forward(mlp, x), *inputs)
    for our, their in zip(ours, gradients(lambda: mlp(x), *inputs), strict=True):
        torch.testing.assert_close(our, their)


def test_mlp_derivatives_are_right(kernel):
    gate, up = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(kernel.silu_and_mul, (gate, up))
    assert torch.autograd.gradgradcheck(kernel.silu_and_mul, (gate, up))


class Returns(nn.Module):
    """Returns a tensor that somebody holds on to; without one, its input."""

    def __init__(self, held=None):
        super().__init__()
        self.held = held

    def forward(self, x):
        return x if self.held is None else self.held


def test_mlp_never_writes_into_what_others_hold(layers, recorded):
    mlp, x, up = mlp_of(), torch.randn(3, 24), torch.randn(3, 24)
    mlp.gate_proj, mlp.up_proj, mlp.down_proj = Returns(), Returns(up), Returns()
    before = x.clone(), up.clone()
    result = layers.SwiGLUMLP.forward(mlp, x)
    assert torch.equal(result, mlp(x))
    assert torch.equal(x, before[0])
    assert torch.equal(up, before[1])


def test_mlp_calls_its_projections_as_modules(layers):
    mlp, x, calls = mlp_of(), torch.randn(3, 24), []
    for projection in (mlp.gate_proj, mlp.up_proj, mlp.down_proj):
        projection.register_forward_hook(lambda module, args, result: calls.append(module))
    mlp.up_proj.register_forward_hook(lambda module, args, result: 2 * result)
    result = layers.SwiGLUMLP.forward(mlp, x)
    assert calls == [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    assert torch.equal(result, mlp(x))


def test_mlp_computes_in_the_wider_dtype_where_projections_differ(layers, recorded):
    gate, up = torch.randn(3, 7).bfloat16(), torch.randn(3, 7)
    mlp = mlp_of()
    mlp.gate_proj, mlp.up_proj, mlp.down_proj = Returns(gate), Returns(up), Returns()
    result = layers.SwiGLUMLP.forward(mlp, torch.empty(0))
    assert result.dtype == torch.float32
    assert torch.equal(result, functional.silu(gate) * up)


@pytest.mark.parametrize("act_fn", [nn.SiLU(), ACT2FN["silu"], ACT2FN["swish"], functional.silu])
def test_mlp_knows_silu_by_its_names(layers, act_fn):
    mlp, x = mlp_of(), torch.randn(3, 24)
    expected = mlp(x)
    del mlp.act_fn
    assert torch.equal(layers.SwiGLUMLP.forward(mlp, x), expected), "no act_fn: nothing to check"
    mlp.act_fn = act_fn
    assert torch.equal(layers.SwiGLUMLP.forward(mlp, x), expected)


@pytest.mark.parametrize("act_fn", [nn.GELU(), ACT2FN["gelu_pytorch_tanh"], functional.relu])
def test_mlp_with_another_activation_is_refused_by_name(layers, act_fn):
    mlp = mlp_of()
    del mlp.act_fn
    mlp.act_fn = act_fn
    name = getattr(act_fn, "__name__", type(act_fn).__name__)
    with pytest.raises(TypeError, match=f"computes SiLU, but this module's act_fn is {name}"):
        layers.SwiGLUMLP.forward(mlp, torch.randn(3, 24))


# rotary_pos_emb


def angles(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Cosine and sine; unlike in models, the halves differ, so that none can stand for both."""
    angle = torch.rand(shape) * 6
    return angle.cos().to(dtype), angle.sin().to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("q", "k", "cos", "unsqueeze_dim"),
    [
        ((2, 9, 5, 64), (2, 3, 5, 64), (2, 5, 64), 1),
        ((2, 9, 5, 64), (2, 3, 5, 64), (1, 5, 64), 1),
        ((2, 5, 9, 64), (2, 5, 3, 64), (2, 5, 64), 2),
        ((5, 4, 16), (5, 2, 16), (5, 16), -2),
        ((2, 1, 1, 6), (2, 1, 1, 6), (2, 1, 6), 1),
        ((1, 2, 3, 7), (1, 2, 3, 7), (1, 3, 7), 1),
        ((0, 4, 5, 8), (0, 2, 5, 8), (0, 5, 8), 1),
    ],
    ids=["heads first", "batch broadcast", "heads second", "no batch", "one", "odd", "empty"],
)
def test_rotation_is_that_of_llama(layers, recorded, dtype, q, k, cos, unsqueeze_dim):
    cos, sin = angles(*cos, dtype=dtype)
    q, k = strided(*q).to(dtype), torch.randn(k).to(dtype)
    before = q.clone(), k.clone()
    theirs = apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim)
    ours = layers.rotary_pos_emb.forward(None, q, k, cos, sin, unsqueeze_dim)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=0, atol=8 * torch.finfo(dtype).eps)
        assert our.dtype == dtype
    assert torch.equal(q, before[0])
    assert torch.equal(k, before[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotation_errs_no_more_than_that_of_llama(layers, recorded, dtype):
    q, k = torch.randn(2, 2, 4, 64, 64).to(dtype)
    cos, sin = angles(2, 64, 64, dtype=dtype)
    exact = apply_rotary_pos_emb(q.double(), k.double(), cos.double(), sin.double())
    theirs = apply_rotary_pos_emb(q, k, cos, sin)
    ours = layers.rotary_pos_emb.forward(None, q, k, cos, sin)
    for our, their, reference in zip(ours, theirs, exact, strict=True):
        assert errors(our, reference)[1] <= errors(their, reference)[1]


@pytest.mark.parametrize("model", ["esm", "hunyuan_vl", "modernbert", "olmo2"])
@pytest.mark.parametrize(("dtype", "of_angles"), [(torch.bfloat16, torch.float32), DTYPES[:1] * 2])
def test_rotation_is_that_of_models_that_return_the_dtype_of_queries(
    layers, recorded, model, dtype, of_angles
):
    theirs = importlib.import_module(f"transformers.models.{model}.modeling_{model}")
    q, k = torch.randn(2, 2, 4, 5, 64).to(dtype)
    arguments = q, k, *angles(2, 5, 64, dtype=of_angles)
    ours = layers.rotary_pos_emb.forward(None, *arguments)
    torch.testing.assert_close(ours, theirs.apply_rotary_pos_emb(*arguments))


@pytest.mark.parametrize(
    ("q", "k", "cos", "sin"), [(16, 16, 8, 8), (16, 16, 12, 12), (16, 8, 16, 16), (16, 16, 16, 8)]
)
def test_rotation_of_another_width_is_refused(layers, q, k, cos, sin):
    q, k = torch.randn(1, 2, 3, q), torch.randn(1, 2, 3, k)
    cos, sin = torch.randn(1, 3, cos), torch.randn(1, 3, sin)
    with pytest.raises(ValueError, match="cos and sin must be as wide as the heads"):
        layers.rotary_pos_emb.forward(None, q, k, cos, sin)


def test_rotation_has_the_gradients_of_that_of_llama(layers):
    q, k = torch.randn(2, 2, 3, 5, 8).requires_grad_().unbind()
    inputs = (q, k, *(one.requires_grad_() for one in angles(2, 5, 8)))
    ours = gradients(lambda: layers.rotary_pos_emb.forward(None, *inputs), *inputs)
    theirs = gradients(lambda: apply_rotary_pos_emb(*inputs), *inputs)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their)


def test_rotation_derivatives_are_right(kernel):
    shapes = [(1, 2, 3, 4), (1, 1, 3, 4), (1, 3, 4), (1, 3, 4)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(kernel.apply_rotary_pos_emb, inputs)
    assert torch.autograd.gradgradcheck(kernel.apply_rotary_pos_emb, inputs)
