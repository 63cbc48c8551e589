"""The kernels compute what torch's operators compute, and no worse than the usual eager layers.

The reference is the same formula in float64.
"""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1, 2048), (3, 5, 37), (2, 4, 64), (7, 1000)]
KINDS = ["silu", "gelu", "gelu_tanh"]

# In float32 the kernels' exponential and logarithm are a little coarser than eager's.
SLACK = {torch.float32: 2e-7, torch.bfloat16: 1e-4, torch.float16: 3e-5}


def slack(result: Tensor, device: torch.device, few: bool) -> float:
    """By how much a relative error may exceed eager's."""
    if few or result.numel() < 100:  # either may happen to round in the right direction
        return 2 * torch.finfo(result.dtype).eps
    if device.type == "cpu" and result.dtype == torch.bfloat16:
        return torch.finfo(result.dtype).eps  # Triton's interpreter cuts off where a GPU rounds
    return SLACK[result.dtype]


def error(result: Tensor, reference: Tensor) -> float:
    """The relative error of the whole; infinite where something is no number."""
    difference = (result.double() - reference.double()).norm()
    found = (difference / reference.double().norm().clamp_min(1e-300)).item()
    return math.inf if math.isnan(found) else found


def compare(
    ours: Callable[..., Any],
    eager: Callable[..., Any],
    tensors: list[Tensor],
    fixed: int = 0,
    few: bool = False,
) -> None:
    """Results and gradients of ours are as close to eager's in float64 as eager's own are.

    Args:
        ours: the kernel.
        eager: the same in torch's operators.
        tensors: what both take.
        fixed: how many of the last tensors get no gradient.
        few: whether few elements make up the results, so that their rounding does not average out.
    """
    changing = tensors[: len(tensors) - fixed]
    exact = [tensor.double() if tensor.is_floating_point() else tensor for tensor in tensors]

    def evaluate(function: Callable[..., Any], values: list[Tensor]) -> list[Tensor]:
        values = [value.detach() for value in values]
        for value in values[: len(changing)]:
            value.requires_grad_()
        results = function(*values)
        results = [results] if isinstance(results, Tensor) else list(results)
        generator = torch.Generator().manual_seed(1)
        weights = [torch.randn(r.shape, generator=generator).to(r) for r in results]
        return results + list(torch.autograd.grad(results, values[: len(changing)], weights))

    expected = evaluate(eager, exact)
    for mine, theirs, reference in zip(
        evaluate(ours, tensors), evaluate(eager, tensors), expected, strict=True
    ):
        assert mine.shape == reference.shape
        assert error(mine, reference) <= error(theirs, reference) + slack(
            mine, tensors[0].device, few
        )
    with torch.no_grad():  # the way past the dispatcher
        results = ours(*tensors)
        for mine, reference in zip(
            [results] if isinstance(results, Tensor) else results, expected, strict=False
        ):
            assert mine.dtype == tensors[0].dtype
            bound = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}
            assert error(mine, reference) <= bound[mine.dtype]


def eager_rms(x: Tensor, weight: Tensor) -> Tensor:
    wide = x if x.dtype == torch.float64 else x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)).to(x.dtype)


def activation(kind: str) -> Callable[[Tensor], Tensor]:
    if kind == "silu":
        return functional.silu
    return lambda x: functional.gelu(x, approximate="none" if kind == "gelu" else "tanh")


def rotated(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    def rotate(x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        swapped = torch.cat((-x[..., half:], x[..., :half]), -1)
        return x * cos.unsqueeze(1) + swapped * sin.unsqueeze(1)

    return rotate(q), rotate(k)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rms_norm(kernel: ModuleType, device: torch.device, shape: Any, dtype: Any) -> None:
    x = torch.randn(shape, device=device, dtype=dtype)
    weight = torch.rand(shape[-1], device=device, dtype=dtype)
    compare(lambda *given: kernel.rms_norm(*given, 1e-5), eager_rms, [x, weight])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_add_rms_norm(kernel: ModuleType, device: torch.device, shape: Any, dtype: Any) -> None:
    x, residual = torch.randn((2, *shape), device=device, dtype=dtype)
    weight = torch.rand(shape[-1], device=device, dtype=dtype)
    compare(
        lambda *given: kernel.add_rms_norm(*given, 1e-5),
        lambda x, residual, weight: (eager_rms(x + residual, weight), x + residual),
        [x, residual, weight],
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("affine", [0, 1, 2], ids=["plain", "weight", "weight and bias"])
def test_layer_norm(
    kernel: ModuleType, device: torch.device, shape: Any, dtype: Any, affine: int
) -> None:
    x = torch.randn(shape, device=device, dtype=dtype) + 3
    members = list(torch.rand((affine, shape[-1]), device=device, dtype=dtype))

    def pad(given: Any) -> list[Any]:
        return [*given, *[None] * (2 - len(given))]

    compare(
        lambda x, *given: kernel.layer_norm(x, *pad(given), 1e-5),
        lambda x, *given: functional.layer_norm(x, x.shape[-1:], *pad(given), 1e-5),
        [x, *members],
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_gated(kernel: ModuleType, device: torch.device, shape: Any, dtype: Any, kind: str) -> None:
    gate, up = 3 * torch.randn((2, *shape), device=device, dtype=dtype)
    compare(
        lambda *given: kernel.gated(*given, kind),
        lambda gate, up: activation(kind)(gate) * up,
        [gate, up],
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [2, 38, 64, 4096])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_gated(
    kernel: ModuleType, device: torch.device, size: int, dtype: Any, kind: str
) -> None:
    x = 3 * torch.randn(3, 2, size, device=device, dtype=dtype)
    compare(
        lambda x: kernel.packed_gated(x, kind),
        lambda x: activation(kind)(x[..., : size // 2]) * x[..., size // 2 :],
        [x],
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("heads", [(3, 3), (1, 5)], ids=str)
@pytest.mark.parametrize("size", [2, 12, 64])
@pytest.mark.parametrize("memory", ["heads first", "tokens first"])
@pytest.mark.parametrize("batches", [1, 2])
def test_rotary(
    kernel: ModuleType,
    device: torch.device,
    dtype: Any,
    heads: Any,
    size: int,
    memory: str,
    batches: int,
) -> None:
    def project(count: int) -> Tensor:
        if memory == "heads first":
            return torch.randn(2, count, 3, size, device=device, dtype=dtype)
        return torch.randn(2, 3, count, size, device=device, dtype=dtype).transpose(1, 2)

    q, k = project(heads[0]), project(heads[1])
    cos, sin = torch.randn((2, batches, 3, size), device=device, dtype=dtype)
    compare(kernel.apply_rotary_pos_emb, rotated, [q, k, cos, sin], fixed=2)
    with torch.no_grad():
        swapped = [tensor.transpose(1, 2) for tensor in (q, k)]
        other = kernel.apply_rotary_pos_emb(*swapped, cos, sin, unsqueeze_dim=2)
        for mine, one in zip(kernel.apply_rotary_pos_emb(q, k, cos, sin), other, strict=True):
            assert torch.equal(mine, one.transpose(1, 2))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rotary_of_angles_for_both_halves_of_a_head(
    kernel: ModuleType, device: torch.device, dtype: Any
) -> None:
    q, k = torch.randn((2, 2, 3, 5, 8), device=device, dtype=dtype)
    cos, sin = torch.randn((2, 2, 5, 4), device=device, dtype=dtype)

    def doubled(q: Tensor, k: Tensor, *half: Tensor) -> tuple[Tensor, Tensor]:
        return rotated(q, k, *(torch.cat((one, one), -1) for one in half))

    compare(kernel.apply_rotary_pos_emb, doubled, [q, k, cos, sin], fixed=2)


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "unrecorded"])
def test_rotary_of_heads_whose_elements_are_not_side_by_side(
    kernel: ModuleType, device: torch.device, recorded: bool
) -> None:
    with torch.set_grad_enabled(recorded):
        q = torch.randn(1, 2, 8, 3, device=device, requires_grad=True).transpose(2, 3)
        k = torch.randn(1, 1, 3, 8, device=device, requires_grad=True).expand(1, 2, 3, 8)
        cos, sin = torch.randn((2, 1, 8, 3), device=device).transpose(2, 3)
        expected = rotated(q, k, cos, sin)
        for mine, theirs in zip(kernel.apply_rotary_pos_emb(q, k, cos, sin), expected, strict=True):
            assert error(mine, theirs) < 1e-6


def test_rotary_gives_gradients_of_cos_and_sin_too(
    kernel: ModuleType, device: torch.device
) -> None:
    q, k = torch.randn((2, 1, 2, 5, 8), device=device)
    cos, sin = torch.randn((2, 1, 5, 8), device=device)
    compare(kernel.apply_rotary_pos_emb, rotated, [q, k, cos, sin])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classes", [3, 1000, 5000])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(
    kernel: ModuleType,
    device: torch.device,
    classes: int,
    dtype: Any,
    reduction: str,
    smoothing: float,
) -> None:
    x = 4 * torch.randn(6, classes, device=device, dtype=dtype)
    target = torch.tensor([0, -100, classes - 1, 1, 1, 2], device=device)
    how = {"reduction": reduction, "label_smoothing": smoothing}
    compare(
        lambda x, target: kernel.cross_entropy(x, target, **how),
        lambda x, target: functional.cross_entropy(x, target, **how),
        [x, target],
        fixed=1,
        few=True,
    )


def test_cross_entropy_of_infinite_logits_and_of_classes_that_do_not_exist(
    kernel: ModuleType, device: torch.device
) -> None:
    x = torch.randn(4, 5, device=device)
    x[0, 1:] = -math.inf
    target = torch.tensor([0, 5, -1, 2], device=device)
    loss = kernel.cross_entropy(x, target, reduction="none")
    assert loss.isnan().tolist() == [False, True, True, False]
    assert loss[0] == 0


@pytest.mark.parametrize("size", [2, 3, 70_000])
def test_sizes_at_the_edges(kernel: ModuleType, device: torch.device, size: int) -> None:
    x = torch.randn(2, size, device=device)
    weight = torch.rand(size, device=device)
    compare(lambda *given: kernel.rms_norm(*given, 1e-5), eager_rms, [x, weight])


def test_empty_tensors(kernel: ModuleType, device: torch.device) -> None:
    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device=device, requires_grad=True)

    weight = torch.ones(8, device=device, requires_grad=True)
    results = [
        kernel.rms_norm(empty(0, 8), weight, 1e-5),
        kernel.add_rms_norm(empty(0, 8), empty(0, 8), weight, 1e-5)[0],
        kernel.layer_norm(empty(2, 0, 8), weight, weight, 1e-5),
        kernel.gated(empty(0, 8), empty(0, 8), "silu"),
        kernel.packed_gated(empty(0, 8), "gelu"),
        kernel.apply_rotary_pos_emb(
            empty(0, 2, 3, 8), empty(0, 1, 3, 8), *torch.ones(2, 1, 3, 8, device=device)
        )[0],
        kernel.cross_entropy(
            empty(0, 8), torch.empty(0, dtype=torch.int64, device=device), reduction="none"
        ),
    ]
    for result in results:
        assert result.numel() == 0
        result.sum().backward()
    assert torch.equal(weight.grad, torch.zeros_like(weight))


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "unrecorded"])
def test_strided_and_misaligned_tensors(
    kernel: ModuleType, device: torch.device, recorded: bool
) -> None:
    with torch.set_grad_enabled(recorded):
        flat = torch.randn(4 * 24 + 1, device=device, requires_grad=True)
        weight = torch.rand(25, device=device)[1:]
        plain = flat[:-1].reshape(4, 24)
        for x in (flat[1:].reshape(4, 24), plain.t().contiguous().t(), plain.flip(0)):
            assert error(kernel.rms_norm(x, weight, 1e-5), eager_rms(x, weight)) < 1e-6
            assert error(kernel.gated(x, plain, "silu"), functional.silu(x) * plain) < 1e-6
            halves = functional.silu(x[:, :12]) * x[:, 12:]
            assert error(kernel.packed_gated(x, "silu"), halves) < 1e-6


def test_gradients_are_exact_in_float64(kernel: ModuleType, device: torch.device) -> None:
    def make(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=torch.float64, requires_grad=True)

    check = torch.autograd.gradcheck
    x, y, weight, bias = make(3, 6), make(3, 6), make(6), make(6)
    assert check(lambda *given: kernel.rms_norm(*given, 1e-5), (x, weight))
    assert check(lambda *given: kernel.add_rms_norm(*given, 1e-5), (x, y, weight))
    assert check(lambda *given: kernel.layer_norm(*given, 1e-5), (x, weight, bias))
    for kind in KINDS:
        assert check(lambda *given, kind=kind: kernel.gated(*given, kind), (x, y))
        assert check(lambda given, kind=kind: kernel.packed_gated(given, kind), (x,))
    cos, sin = torch.randn((2, 1, 2, 6), device=device, dtype=torch.float64)
    q, k = make(1, 2, 2, 6), make(1, 1, 2, 6)
    assert check(lambda *given: kernel.apply_rotary_pos_emb(*given, cos, sin), (q, k))
    target = torch.tensor([0, 5, -100], device=device)
    for smoothing in (0.0, 0.5):
        loss = kernel.cross_entropy
        assert check(lambda x, s=smoothing, loss=loss: loss(x, target, label_smoothing=s), (x,))
