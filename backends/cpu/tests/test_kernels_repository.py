"""The bundled kernels are a kernel repository by the rules, and run in models through kernelize."""

import ast
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama import modeling_llama as llama

from kernels_backend_cpu.bundled import bundled_mapping
from kernels_core import (
    Mode,
    get_kernel_variants,
    get_local_kernel,
    kernelize,
    report,
    unkernelize,
    use_kernel_forward_from_hub,
    use_kernel_mapping,
    use_kernelized_func,
)
from kernels_core.layers.validation import check_layer, required_members
from kernels_core.repository.metadata import BackendMetadata, read_metadata

NAMES = ["RMSNorm", "SwiGLUMLP", "rotary_pos_emb"]
REPOSITORY = bundled_mapping()["RMSNorm"]["cpu"].repo_path
VARIANT = REPOSITORY / "build" / "torch-cpu"
TRAINING_COMPILED = Mode.TRAINING | Mode.TORCH_COMPILE


@pytest.fixture(scope="module")
def kernel() -> ModuleType:
    return get_local_kernel(REPOSITORY, backend="cpu")


# The repository


def test_the_mapping_holds_each_layer_under_its_own_name() -> None:
    mapping = bundled_mapping()
    assert sorted(mapping) == NAMES
    for name, devices in mapping.items():
        assert list(devices) == ["cpu"]
        assert devices["cpu"].load().__name__ == name


def test_there_is_one_build_and_it_fits() -> None:
    (decision,) = get_kernel_variants(REPOSITORY, backend="cpu")
    assert (decision.name, decision.accepted) == ("torch-cpu", True)


def test_metadata_says_what_it_is() -> None:
    metadata = read_metadata(VARIANT / "metadata.json")
    assert metadata is not None
    assert metadata.backend == BackendMetadata("cpu")
    assert metadata.name
    assert metadata.id
    assert metadata.version == 1


def test_the_package_exports_its_layers_and_functions(kernel: ModuleType) -> None:
    assert "layers" in kernel.__all__
    assert all(hasattr(kernel, name) for name in kernel.__all__)
    defined = [v for v in vars(kernel.layers).values() if isinstance(v, type)]
    exported = [v for v in defined if v.__module__ == kernel.layers.__name__]
    assert sorted(layer.__name__ for layer in exported) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_layers_are_pure_and_claim_everything(kernel: ModuleType, name: str) -> None:
    layer = getattr(kernel.layers, name)
    check_layer(layer, repository="bundled", name=name)
    assert layer.has_backward
    assert layer.can_torch_compile


def test_layers_name_the_members_that_they_need(kernel: ModuleType) -> None:
    members = {name: required_members(getattr(kernel.layers, name)) for name in NAMES}
    assert members == {
        "RMSNorm": ("weight", "variance_epsilon"),
        "SwiGLUMLP": ("gate_proj", "up_proj", "down_proj"),
        "rotary_pos_emb": (),
    }


@pytest.mark.parametrize("file", sorted(VARIANT.rglob("*.py")), ids=lambda path: path.name)
def test_the_code_keeps_to_python_3_9_and_to_allowed_imports(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 9))
    allowed = {"torch", *sys.stdlib_module_names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert {name.name.partition(".")[0] for name in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert str(node.module).partition(".")[0] in allowed


# In a model


@use_kernel_forward_from_hub("RMSNorm")
class Norm(llama.LlamaRMSNorm):
    pass


@use_kernel_forward_from_hub("SwiGLUMLP")
class MLP(llama.LlamaMLP):
    pass


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1):
    return llama.apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim)


rotary = use_kernel_forward_from_hub("rotary_pos_emb")(rotate)


@use_kernelized_func(rotary)
class Block(nn.Module):
    """All three layers, in the order of a decoder."""

    def __init__(self) -> None:
        super().__init__()
        config = LlamaConfig(hidden_size=32, intermediate_size=48, num_attention_heads=4)
        self.norm = Norm(32)
        self.mlp = MLP(config)
        # With Hugging Face `kernels` installed, transformers' own SiLU is extensible as well.
        self.mlp.act_fn = nn.SiLU()
        self.angle = nn.Buffer(torch.rand(1, 5, 8))

    def forward(self, x: Tensor) -> Tensor:
        heads = self.norm(x).unflatten(-1, (4, 8)).transpose(1, 2)
        q, k = rotary(heads, 2 * heads, self.angle.cos(), self.angle.sin())
        return self.mlp((q * k).transpose(1, 2).flatten(-2))


@pytest.fixture
def block():
    """A block outside of any mapping but ours, and nothing left kernelized afterwards."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    block = Block()
    with use_kernel_mapping(bundled_mapping(), inherit_mapping=False):
        yield block
    unkernelize(block)


def run(block: nn.Module) -> tuple[Tensor, ...]:
    """The output for a fixed input, and every gradient where autograd records."""
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1))
    if not torch.is_grad_enabled():
        return (block(x),)
    x.requires_grad_()
    output = block(x)
    inputs = (x, *block.parameters())
    return (output, *torch.autograd.grad(output.square().sum(), inputs))


def assert_close(actual: object, expected: object) -> None:
    # Wider than for a single layer: the kernels round differently, and a gradient sums that up.
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", [Mode.INFERENCE, TRAINING_COMPILED], ids=str)
def test_kernelize_takes_all_three_in_every_mode(block: Block, mode: Mode) -> None:
    before = run(block)
    kernelize(block, mode=mode, use_fallback=False)
    assert sorted(row.kernel or row.reason for row in report(block).rows) == NAMES
    assert {row.variant for row in report(block).rows} == {"torch-cpu"}
    assert_close(run(block), before)


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "unrecorded"])
@pytest.mark.parametrize("compiler", ["eager", "inductor"])
def test_a_model_compiles_as_one_graph(block: Block, compiler: str, recorded: bool) -> None:
    with torch.set_grad_enabled(recorded):
        before = run(block)
        kernelize(block, mode=TRAINING_COMPILED, use_fallback=False)
        compiled = torch.compile(block, fullgraph=True, backend=compiler)
        assert_close(run(compiled), before)


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "unrecorded"])
def test_a_model_exports(block: Block, recorded: bool) -> None:
    x = torch.randn(2, 5, 32)
    kernelize(block.eval(), mode=Mode.INFERENCE | Mode.TORCH_COMPILE, use_fallback=False)
    with torch.set_grad_enabled(recorded):
        batch = torch.export.Dim("batch", min=1, max=64)
        exported = torch.export.export(block, (x,), dynamic_shapes={"x": {0: batch}}).module()
        other = torch.randn(7, 5, 32)
        assert_close(exported(other), block(other))


def test_layers_work_under_vmap(block: Block) -> None:
    kernelize(block, mode=Mode.INFERENCE, use_fallback=False)
    x = torch.randn(3, 2, 5, 32)
    with torch.no_grad():
        assert_close(torch.vmap(block)(x), torch.stack([block(one) for one in x]))
