"""The bundled layers compute what the layers of transformers compute, and no worse.

Each runs as `kernelize` runs it: its forward on an instance of the class that it is used for. The
reference is the same formula in float64.
"""

import copy
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
from kernels_core import (
    Mode,
    get_local_kernel,
    kernelize,
    report,
    unkernelize,
    use_kernel_forward_from_hub,
    use_kernelized_func,
)
from kernels_core.layers.classes import kernelized_class

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


def swapped(module: nn.Module, layer: type[nn.Module]) -> nn.Module:
    """A copy of a module with the class that `kernelize` gives it."""
    copied = copy.copy(module)
    copied.__class__ = kernelized_class(type(module), layer)
    return copied


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


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "plain"])
@pytest.mark.parametrize("of_weight", [*DTYPES, torch.float64])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_norm_returns_the_dtype_that_it_returned(layers, recorded, dtype, of_weight, autocast):
    # gpt-oss returns the dtype of its input, Llama the wider one of input and weight.
    for cls in (GptOssRMSNorm, LlamaRMSNorm):
        norm = cls(64).to(of_weight)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        x = torch.randn(4, 64).to(dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            expected = norm(x)
            result = swapped(norm, layers.RMSNorm)(x)
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("shape", [(64,), (1, 64), (0, 64), (2, 0, 3, 64)])
def test_norm_computes_what_broadcasts_with_its_weight(layers, recorded, shape):
    norm = norm_of(1)
    x = torch.randn(shape)
    torch.testing.assert_close(swapped(norm, layers.RMSNorm)(x), norm(x))


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


@use_kernel_forward_from_hub("SwiGLUMLP")
class MLP(LlamaMLP):
    def forward(self, x):
        return super().forward(x)


def kernel_of_mlp(mlp: LlamaMLP) -> str | None:
    """What the MLP gets from `kernelize`; it computes the same afterwards."""
    mlp.__class__ = MLP
    x = torch.randn(3, 24)
    before = mlp(x)
    kernelize(mlp, mode=Mode.TRAINING, mapping=bundled_mapping())
    torch.testing.assert_close(mlp(x), before)
    (row,) = [row for row in report(mlp).rows if row.layer_name == "SwiGLUMLP"]
    assert row.kernel or "does not meet the condition gates_with_silu" in row.reason
    return row.kernel


@pytest.mark.parametrize("act_fn", [nn.GELU(), ACT2FN["gelu_pytorch_tanh"], functional.relu])
def test_mlp_with_another_activation_is_left_alone(act_fn):
    mlp = mlp_of()
    assert kernel_of_mlp(copy.deepcopy(mlp)) == "SwiGLUMLP"
    del mlp.act_fn
    mlp.act_fn = act_fn
    assert kernel_of_mlp(mlp) is None


def test_mlp_whose_activation_is_changed_later_computes_with_that_one(layers):
    mlp, x = mlp_of(), torch.randn(3, 24)
    mlp = swapped(mlp, layers.SwiGLUMLP)
    mlp.act_fn = nn.ReLU()
    assert torch.equal(mlp(x), LlamaMLP.forward(mlp, x))


def test_mlp_whose_gates_broadcast(layers, recorded):
    mlp = mlp_of()
    mlp.gate_proj, mlp.up_proj = Returns(torch.randn(3, 1)), Returns(torch.randn(3, 57))
    assert torch.equal(swapped(mlp, layers.SwiGLUMLP)(torch.empty(0)), mlp(torch.empty(0)))


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
        ((2, 1, 1, 6), (2, 1, 1, 6), (2, 1, 6), 1),
        ((1, 2, 3, 7), (1, 2, 3, 7), (1, 3, 7), 1),
        ((0, 4, 5, 8), (0, 2, 5, 8), (0, 5, 8), 1),
    ],
    ids=["heads first", "batch broadcast", "heads second", "one", "odd", "empty"],
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


class Attention(nn.Module):
    """Uses a function."""

    def __init__(self, function):
        super().__init__()
        use_kernelized_func(function)  # which checks that it is extensible
        self._kernel_funcs = {"function": function}


@pytest.fixture
def function_of():
    """The rotation of a model, extensible and with its own forward."""
    found = []

    def get(model: str):
        module = importlib.import_module(f"transformers.models.{model}.modeling_{model}")
        function = module.apply_rotary_pos_emb
        if not isinstance(function, nn.Module):
            function = use_kernel_forward_from_hub("rotary_pos_emb")(function)
        found.append(function)
        return function

    yield get
    for function in found:
        unkernelize(Attention(function))


def kernelized_function(function) -> str | None:
    """Which kernel a function gets."""
    owner = Attention(function)
    kernelize(owner, mode=Mode.TRAINING, device="cpu", mapping=bundled_mapping())
    return report(owner).rows[0].kernel


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "plain"])
@pytest.mark.parametrize("model", ["esm", "gpt_oss", "hunyuan_vl", "llama", "modernbert", "olmo2"])
@pytest.mark.parametrize("of_keys", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("of_angles", [torch.float32, torch.bfloat16])
def test_rotation_returns_the_dtype_that_it_returned(
    recorded, function_of, model, of_keys, of_angles, autocast
):
    function = function_of(model)
    q, k = torch.randn(2, 4, 5, 64).bfloat16(), torch.randn(2, 3, 5, 64).to(of_keys)
    arguments = q, k, *angles(2, 5, 32 if model == "gpt_oss" else 64, dtype=of_angles)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        before = function(*arguments)
        assert kernelized_function(function) == "rotary_pos_emb"
        torch.testing.assert_close(function(*arguments), before, rtol=0, atol=0.05)


@pytest.mark.parametrize("model", ["nanochat", "openai_privacy_filter", "cohere", "glm"])
def test_another_rotation_is_left_alone(function_of, model):
    function = function_of(model)
    arguments = torch.randn(1, 2, 3, 16), torch.randn(1, 1, 3, 16)
    half = model == "openai_privacy_filter"
    arguments += angles(1, 3, 8 if half else 16)
    before = function(*arguments)
    assert kernelized_function(function) is None
    for ours, theirs in zip(function(*arguments), before, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("q", "k", "cos", "unsqueeze_dim"),
    [
        ((1, 4, 5, 16), (1, 2, 5, 16), (3, 5, 16), 1),
        ((2, 4, 1, 16), (2, 2, 1, 16), (2, 5, 16), 1),
        ((2, 4, 5, 16), (2, 2, 5, 16), (5, 16), 0),
        ((4, 5, 16), (2, 5, 16), (5, 16), 0),
        ((5, 4, 16), (5, 2, 16), (5, 16), -2),
        ((4, 5, 16), (2, 5, 16), (1, 1, 5, 16), 1),
        ((2, 4, 5, 16), (2, 2, 5, 16), (2, 1, 16), 1),
        ((2, 4, 5, 16), (2, 2, 5, 16), (2, 4, 5, 1), -1),
        ((2, 4, 5, 16), (2, 2, 5, 16), (16,), 0),
        ((0, 4, 5, 16), (0, 2, 5, 16), (1, 5, 16), 1),
        ((2, 4, 0, 16), (2, 2, 0, 16), (2, 0, 16), 1),
        ((2, 4, 5, 2), (2, 2, 5, 2), (2, 5, 1), 1),
    ],
)
def test_rotation_computes_all_that_the_function_computed(
    recorded, function_of, q, k, cos, unsqueeze_dim
):
    function = function_of("llama")
    arguments = (torch.randn(q), torch.randn(k), *angles(*cos), unsqueeze_dim)
    try:
        before = function(*arguments)
    except RuntimeError:
        before = None
    assert kernelized_function(function) == "rotary_pos_emb"
    if before is None:
        with pytest.raises(RuntimeError):
            function(*arguments)
    else:
        torch.testing.assert_close(function(*arguments), before)


@pytest.mark.parametrize(
    ("q", "k", "cos", "sin"), [(16, 16, 12, 12), (16, 8, 16, 16), (16, 16, 16, 8)]
)
def test_rotation_of_another_width_is_explained(kernel, q, k, cos, sin):
    q, k = torch.randn(1, 2, 3, q), torch.randn(1, 2, 3, k)
    cos, sin = torch.randn(1, 3, cos), torch.randn(1, 3, sin)
    with pytest.raises(ValueError, match="cos and sin must be as wide as the heads"):
        kernel.apply_rotary_pos_emb(q, k, cos, sin)


def test_rotation_derivatives_are_right_with_angles_for_both_halves(kernel):
    shapes = [(1, 2, 3, 4), (1, 1, 3, 4), (1, 3, 2), (1, 3, 2)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(kernel.apply_rotary_pos_emb, inputs)


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
