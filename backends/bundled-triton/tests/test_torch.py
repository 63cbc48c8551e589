"""The kernels get along with everything that torch does around an operator, and with kernelize."""

import copy
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from kernels_bundled_triton import bundled_mapping
from kernels_core import (
    Mode,
    kernelize,
    report,
    unkernelize,
    use_kernel_forward_from_hub,
    use_kernelized_func,
)

COMPILED = Mode.TRAINING | Mode.TORCH_COMPILE


@pytest.fixture
def gpu(device: torch.device) -> torch.device:
    if device.type != "cuda":
        pytest.skip("needs a GPU: Triton's interpreter cannot be compiled, traced or captured")
    return device


@use_kernel_forward_from_hub("RMSNorm")
class Norm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size))
        self.variance_epsilon = 1e-5

    def forward(self, hidden_states: Tensor) -> Tensor:
        return functional.rms_norm(
            hidden_states, self.weight.shape, self.weight, self.variance_epsilon
        )


@use_kernel_forward_from_hub("FusedAddRMSNorm")
class AddNorm(Norm):
    def forward(self, hidden_states: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        total = hidden_states + residual
        return super().forward(total), total


@use_kernel_forward_from_hub("LayerNorm")
class LayerNorm(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 # torch's own name
        return super().forward(input)


class Gated(nn.Module):
    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, -1)
        return self.activation(gate) * up


@use_kernel_forward_from_hub("SiluAndMul")
class SiluAndMul(Gated):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


@use_kernel_forward_from_hub("GeluAndMul")
class GeluAndMul(Gated):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


@use_kernel_forward_from_hub("GeluTanhAndMul")
class GeluTanhAndMul(Gated):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class MLP(nn.Module):
    def __init__(self, size: int, act_fn: nn.Module) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size, 2 * size, bias=False)
        self.up_proj = nn.Linear(size, 2 * size, bias=False)
        self.down_proj = nn.Linear(2 * size, size, bias=False)
        self.act_fn = act_fn

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


@use_kernel_forward_from_hub("SwiGLUMLP")
class SwiGLU(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


@use_kernel_forward_from_hub("GEGLUMLP")
class GEGLU(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


@use_kernel_forward_from_hub("CrossEntropyLoss")
class Loss(nn.CrossEntropyLoss):
    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # noqa: A002 # torch's own name
        return super().forward(input, target)


def rotate(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    def one(x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        cat = torch.cat((-second, first), -1)
        return x * cos.unsqueeze(unsqueeze_dim) + cat * sin.unsqueeze(unsqueeze_dim)

    return one(q), one(k)


rotary = use_kernel_forward_from_hub("rotary_pos_emb")(rotate)


@use_kernelized_func(rotary)
class Everything(nn.Module):
    """All layers, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.add, self.layer = Norm(32), AddNorm(32), LayerNorm(32)
        self.swiglu, self.geglu = SwiGLU(32, nn.SiLU()), GEGLU(32, nn.GELU("tanh"))
        self.silu = SiluAndMul(nn.SiLU())
        self.gelu, self.gelu_tanh = GeluAndMul(nn.GELU()), GeluTanhAndMul(nn.GELU("tanh"))
        self.loss = Loss()
        self.angle = nn.Buffer(torch.rand(1, 5, 8))

    def forward(self, x: Tensor) -> Tensor:
        heads = self.norm(x).unflatten(-1, (4, 8)).transpose(1, 2)
        q, k = rotary(heads, 2 * heads, self.angle.cos(), self.angle.sin())
        y = self.swiglu((q * k).transpose(1, 2).flatten(-2))
        y, total = self.add(y, x)
        y = self.layer(self.geglu(y) + total)
        wide = torch.cat([y, total], -1)
        y = self.silu(wide) + self.gelu(wide) + self.gelu_tanh(wide)
        target = torch.arange(10, device=x.device)
        return self.loss(y.flatten(0, 1), target)


@pytest.fixture
def model(kernel: ModuleType, device: torch.device) -> nn.Module:
    return Everything().to(device)


def evaluate(model: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    loss = model(x)
    return [loss, *torch.autograd.grad(loss, [x, *model.parameters()])]


@pytest.mark.parametrize("mode", [Mode.INFERENCE, COMPILED], ids=str)
def test_kernelize_takes_all_layers_and_changes_no_result(
    model: nn.Module, device: torch.device, mode: Mode
) -> None:
    x = torch.randn(2, 5, 32, device=device)
    before = evaluate(model, x)
    with torch.no_grad():
        plain = model(x)
    kernelize(model, mode=mode, mapping=bundled_mapping(device.type), use_fallback=False)
    rows = report(model).rows
    assert {row.layer_name for row in rows} == set(bundled_mapping(device.type))
    assert all(row.kernel == row.layer_name for row in rows)
    assert {row.variant for row in rows} == {"torch-universal"}
    torch.testing.assert_close(evaluate(model, x), before, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain, rtol=1e-4, atol=1e-4)


def operators(kernel: ModuleType) -> dict[str, tuple[Any, Callable[[torch.device], Any]]]:
    namespace = __import__(f"{kernel.__name__}._namespace", fromlist=["NAMESPACE"]).NAMESPACE
    found = getattr(torch.ops, namespace)

    def make(*shape: int) -> Callable[[torch.device], Tensor]:
        return lambda device: torch.randn(shape, device=device, requires_grad=True)

    x, weight, heads, angle = make(6, 32), make(32), make(2, 4, 5, 8), torch.rand(1, 5, 8)
    return {
        "rms_norm": (found.rms_norm, lambda d: (x(d), weight(d), 1e-5)),
        "add_rms_norm": (found.add_rms_norm, lambda d: (x(d), x(d), weight(d), 1e-5)),
        "layer_norm": (found.layer_norm, lambda d: (x(d), weight(d), weight(d), 1e-5)),
        "gated": (found.gated, lambda d: (x(d), x(d), "silu")),
        "packed_gated": (found.packed_gated, lambda d: (x(d), "gelu")),
        "rotary": (
            found.rotary,
            lambda d: (heads(d), heads(d), angle.to(d), angle.to(d), 1, False),
        ),
        "cross_entropy": (
            found.cross_entropy,
            lambda d: (x(d), torch.arange(6, device=d), -100, 0.1),
        ),
    }


OPERATORS = [
    "rms_norm",
    "add_rms_norm",
    "layer_norm",
    "gated",
    "packed_gated",
    "rotary",
    "cross_entropy",
]


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_keep_the_rules_of_torch_library(
    kernel: ModuleType, gpu: torch.device, name: str
) -> None:
    operator, make = operators(kernel)[name]
    torch.library.opcheck(operator, make(gpu))


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "unrecorded"])
@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic", "static"])
def test_a_model_compiles_as_one_graph(
    model: nn.Module, gpu: torch.device, recorded: bool, dynamic: bool
) -> None:
    torch._dynamo.reset()
    run = evaluate if recorded else lambda model, x: [model(x)]
    x = torch.randn(2, 5, 32, device=gpu)
    with torch.set_grad_enabled(recorded):
        before = run(model, x)
        kernelize(model, mode=COMPILED, mapping=bundled_mapping("cuda"), use_fallback=False)
        compiled = torch.compile(model, fullgraph=True, dynamic=dynamic)
        torch.testing.assert_close(run(compiled, x), before, rtol=1e-4, atol=1e-4)


def test_a_model_exports(model: nn.Module, gpu: torch.device) -> None:
    x = torch.randn(2, 5, 32, device=gpu)
    kernelize(model.eval(), mode=COMPILED, mapping=bundled_mapping("cuda"), use_fallback=False)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))


def test_a_cuda_graph_captures_a_model(model: nn.Module, gpu: torch.device) -> None:
    mapping = bundled_mapping("cuda")
    kernelize(model.eval(), mode=Mode.INFERENCE, mapping=mapping, use_fallback=False)
    x = torch.randn(2, 5, 32, device=gpu)
    with torch.no_grad():
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            model(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = model(x)
        x.copy_(torch.randn_like(x))
        graph.replay()
        torch.testing.assert_close(result, model(x))


def test_doing_again_what_was_done_gives_what_doing_it_gives(
    kernel: ModuleType, device: torch.device
) -> None:
    def make(*shape: int) -> Tensor:
        return torch.randn(shape, device=device)

    def heads(count: int) -> Tensor:
        return make(2, 5, count, 8).transpose(1, 2)

    def doubled(size: int) -> tuple[Tensor, Tensor]:
        x = make(3, size)
        return x, x

    calls: dict[str, tuple[Callable[..., Any], Callable[[], Any]]] = {
        "norm": (lambda *t: kernel.rms_norm(*t, 1e-5), lambda: (make(6, 32), make(32))),
        "other eps": (lambda *t: kernel.rms_norm(*t, 0.5), lambda: (make(6, 32), make(32))),
        "other rows": (lambda *t: kernel.rms_norm(*t, 1e-5), lambda: (make(7, 32), make(32))),
        "add": (lambda *t: kernel.add_rms_norm(*t, make(32) * 0 + 1, 1e-5), lambda: doubled(32)),
        "add two": (
            lambda *t: kernel.add_rms_norm(*t, make(32) * 0 + 1, 1e-5),
            lambda: (make(3, 32), make(3, 32)),
        ),
        "plain": (lambda x: kernel.layer_norm(x, None, None, 1e-5), lambda: (make(6, 32),)),
        "one for two": (lambda *t: kernel.gated(*t, "silu"), lambda: doubled(32)),
        "two": (lambda *t: kernel.gated(*t, "silu"), lambda: (make(3, 32), make(3, 32))),
        "strided": (lambda *t: kernel.gated(*t, "silu"), lambda: (make(32, 3).t(), make(3, 32))),
        "packed": (lambda x: kernel.packed_gated(x, "gelu"), lambda: (make(3, 32),)),
        "rotary": (kernel.apply_rotary_pos_emb, lambda: (heads(4), heads(2), *make(2, 1, 5, 8))),
        "loss": (kernel.cross_entropy, lambda: (make(6, 32), torch.arange(6, device=device))),
    }
    namespace = __import__(f"{kernel.__name__}._operator", fromlist=["Operator"])
    with torch.no_grad():
        for _ in range(3):
            for name, (call, values) in calls.items():
                given = values()
                result = call(*given)
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(namespace.Operator, "again", lambda self, *given: None)
                    patch.setattr(namespace.Operator, "run", lambda self, *given: self.body(*given))
                    torch.testing.assert_close(result, call(*given), msg=name)


def test_wrong_arguments_are_refused_after_right_ones(
    kernel: ModuleType, device: torch.device
) -> None:
    x, weight = torch.randn(4, 32, device=device), torch.rand(32, device=device)
    target = torch.arange(4, device=device)
    with torch.no_grad():
        for _ in range(2):
            kernel.rms_norm(x, weight, 1e-5)
            kernel.gated(x, x + 1, "silu")
            kernel.cross_entropy(x, target)
        with pytest.raises(ValueError, match="as large as the last dimension"):
            kernel.rms_norm(x, weight[:16], 1e-5)
        with pytest.raises(ValueError, match="Unknown activation"):
            kernel.gated(x, x + 1, "relu")
        with pytest.raises(ValueError, match="not a valid"):
            kernel.cross_entropy(x, target, reduction="average")
        with torch.autocast(device.type, torch.bfloat16):
            assert kernel.cross_entropy(x.bfloat16(), target).dtype == torch.float32


def test_under_inference_mode_the_results_are_tensors_of_it(
    kernel: ModuleType, device: torch.device
) -> None:
    x, weight = torch.randn(4, 32, device=device), torch.rand(32, device=device)
    with torch.inference_mode():
        assert all(kernel.rms_norm(x, weight, 1e-5).is_inference() for _ in range(3))
    with torch.no_grad():
        assert not kernel.rms_norm(x, weight, 1e-5).is_inference()


def test_kernels_run_on_the_stream_that_is_current(kernel: ModuleType, gpu: torch.device) -> None:
    x, weight = torch.randn(8, 4096, device=gpu), torch.rand(4096, device=gpu)
    stream = torch.cuda.Stream()
    with torch.no_grad():
        expected = kernel.rms_norm(x, weight, 1e-5)
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(100_000_000)
            x.mul_(0)
            result = kernel.rms_norm(x, weight, 1e-5)
        stream.synchronize()
    assert not torch.equal(result, expected)
    assert not result.any()


def test_kernels_run_on_the_device_of_their_tensors(kernel: ModuleType, gpu: torch.device) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    x, weight = torch.randn(8, 64), torch.rand(64)
    with torch.no_grad():
        for index in (1, 0, 1):
            there = torch.device("cuda", index)
            result = kernel.rms_norm(x.to(there), weight.to(there), 1e-5)
            assert result.device == there
            expected = functional.rms_norm(x, (64,), weight, 1e-5)
            torch.testing.assert_close(result.cpu(), expected)
            assert torch.cuda.current_device() == 0
        with pytest.raises(ValueError, match="on one device"):
            kernel.rms_norm(x.to("cuda:0"), weight.to("cuda:1"), 1e-5)


def test_tensors_beyond_two_to_the_31_elements(kernel: ModuleType, gpu: torch.device) -> None:
    rows, size = 2**20 + 1, 2048
    x = torch.randn(8, size, device=gpu, dtype=torch.bfloat16).repeat(rows // 8 + 1, 1)[:rows]
    weight = torch.rand(size, device=gpu, dtype=torch.bfloat16)
    assert x.numel() > 2**31

    def rotate_one(x: Tensor) -> Tensor:
        heads = x.view(1, -1, 32, 64).transpose(1, 2)
        cos = torch.ones((1, 1, 64), device=gpu, dtype=x.dtype).expand(1, len(x), 64)
        rotated, _ = kernel.apply_rotary_pos_emb(heads, heads, cos, cos)
        return rotated.transpose(1, 2).reshape(x.shape)

    with torch.no_grad():
        for call in (
            lambda x: kernel.rms_norm(x, weight, 1e-5),
            lambda x: kernel.gated(x, x, "silu"),
            lambda x: kernel.packed_gated(x, "silu"),
            rotate_one,
        ):
            result = call(x)
            for part in (slice(0, 8), slice(rows - 9, rows - 1)):
                torch.testing.assert_close(result[part], call(x[part].clone()))
            del result


def test_a_dispatch_mode_sees_the_operators(kernel: ModuleType, device: torch.device) -> None:
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            seen.append(func.__name__)
            return func(*args, **(kwargs or {}))

    x, weight = torch.randn(2, 8, device=device), torch.rand(8, device=device)
    with torch.no_grad(), Watch():
        kernel.rms_norm(x, weight, 1e-5)
    assert any(name.startswith("rms_norm") for name in seen)


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "plain"])
@pytest.mark.parametrize("of_weight", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("of_input", [torch.float32, torch.bfloat16], ids=str)
def test_layers_return_the_dtypes_that_they_returned(
    kernel: ModuleType, device: torch.device, of_input: Any, of_weight: Any, autocast: bool
) -> None:
    norm, angle = Norm(8).to(device, of_weight), torch.randn(1, 3, 8, device=device).to(of_weight)
    x = torch.randn(1, 2, 3, 8, device=device).to(of_input)

    def run() -> list[torch.dtype]:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            results = [*rotary(x, x, angle, angle), norm(x)]
        return [result.dtype for result in results]

    owner = Everything()
    unkernelize(owner)
    before = run()
    mapping = bundled_mapping(device.type)
    kernelize(owner, mode=Mode.TRAINING, device=device, mapping=mapping)
    kernelize(norm, mode=Mode.TRAINING, device=device, mapping=mapping, use_fallback=False)
    assert run() == before


def test_autocast_gives_the_dtypes_that_torch_gives(
    kernel: ModuleType, device: torch.device
) -> None:
    layer, loss = LayerNorm(32).to(device), Loss().to(device)
    x = torch.randn(4, 32, device=device, dtype=torch.bfloat16)
    target = torch.arange(4, device=device)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        before = layer(x).dtype, loss(x, target).dtype
        both = nn.ModuleList([layer, loss])
        kernelize(both, mode=Mode.INFERENCE, device=device, mapping=bundled_mapping(device.type))
        assert (layer(x).dtype, loss(x, target).dtype) == before


@pytest.mark.parametrize(
    ("act_fn", "kind"),
    [(nn.GELU(), "gelu"), (nn.GELU("tanh"), "gelu_tanh")],
    ids=["exact", "tanh"],
)
def test_geglu_takes_the_gelu_that_its_module_has(
    kernel: ModuleType, device: torch.device, act_fn: nn.Module, kind: str
) -> None:
    mlp = GEGLU(32, act_fn).to(device)
    x = torch.randn(3, 32, device=device)
    before = mlp(x)
    other = copy.deepcopy(mlp)
    kernelize(other, mode=Mode.TRAINING, mapping=bundled_mapping(device.type), use_fallback=False)
    torch.testing.assert_close(other(x), before)


def test_a_gated_mlp_with_another_activation_is_refused(
    kernel: ModuleType, device: torch.device
) -> None:
    for mlp in (SwiGLU(8, nn.ReLU()), GEGLU(8, nn.SiLU())):
        mlp.to(device)
        x = torch.randn(2, 8, device=device)
        before = mlp(x)
        kernelize(mlp, mode=Mode.INFERENCE, device=device, mapping=bundled_mapping(device.type))
        (row,) = report(mlp).rows
        assert row.kernel is None
        assert "does not meet the condition gates_with" in row.reason
        assert torch.equal(mlp(x), before)


def test_a_gated_mlp_whose_activation_is_changed_later_computes_with_that_one(
    kernel: ModuleType, device: torch.device
) -> None:
    for mlp in (SwiGLU(8, nn.SiLU()), GEGLU(8, nn.GELU())):
        mlp.to(device)
        kernelize(mlp, mode=Mode.INFERENCE, mapping=bundled_mapping(device.type))
        assert report(mlp).rows[0].kernel
        mlp.act_fn = nn.ReLU()
        x = torch.randn(2, 8, device=device)
        assert torch.equal(mlp(x), MLP.forward(mlp, x))


WRONG = {
    Norm: lambda self, x: functional.rms_norm(x, (32,), 1 + self.weight, 1e-5),
    AddNorm: lambda self, x, residual: (x + residual, Norm.forward(self, x + residual)),
    LayerNorm: lambda self, x: nn.LayerNorm.forward(self, x.flip(-1)),
    SiluAndMul: lambda self, x: Gated.forward(self, x.roll(x.shape[-1] // 2, -1)),
    GeluAndMul: lambda self, x: functional.gelu(x[..., :4], approximate="tanh") * x[..., 4:],
    GeluTanhAndMul: lambda self, x: functional.gelu(x[..., :4]) * x[..., 4:],
    SwiGLU: lambda self, x: 2 * MLP.forward(self, x),
    GEGLU: lambda self, x: 2 * MLP.forward(self, x),
    Loss: lambda self, x, target: 2 * nn.CrossEntropyLoss.forward(self, x, target),
}
MADE = {
    SiluAndMul: (nn.SiLU(),),
    GeluAndMul: (nn.GELU(),),
    GeluTanhAndMul: (nn.GELU("tanh"),),
    SwiGLU: (32, nn.SiLU()),
    GEGLU: (32, nn.GELU()),
    Loss: (),
}


@pytest.mark.parametrize("cls", WRONG, ids=lambda cls: cls.__name__)
def test_a_class_of_the_name_that_computes_something_else_is_refused(
    kernel: ModuleType, device: torch.device, cls: type[nn.Module]
) -> None:
    other = type("Other", (cls,), {"forward": WRONG[cls]})
    use_kernel_forward_from_hub(cls.kernel_layer_name)(other)
    module = other(*MADE.get(cls, (32,)))
    mapping = bundled_mapping(device.type)
    kernelize(module, mode=Mode.INFERENCE, device=device, mapping=mapping)
    assert "does not meet the condition" in report(module).rows[0].reason


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k: k.rms_norm(torch.ones(2, 8), torch.ones(4), 1e-5), "as large as the last"),
        (
            lambda k: k.add_rms_norm(torch.ones(2, 8), torch.ones(1, 8), torch.ones(8), 1e-5),
            "shape and dtype of x",
        ),
        (lambda k: k.gated(torch.ones(2), torch.ones(2), "relu"), "Unknown activation 'relu'"),
        (lambda k: k.packed_gated(torch.ones(2, 3), "silu"), "must be even"),
        (
            lambda k: k.apply_rotary_pos_emb(*torch.ones(2, 1, 1, 2, 8), *torch.ones(2, 1, 2, 3)),
            "as wide as the heads",
        ),
    ],
    ids=["weight", "residual", "kind", "halves", "cos"],
)
def test_bad_input_is_explained(
    kernel: ModuleType, call: Callable[[ModuleType], Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(kernel)
