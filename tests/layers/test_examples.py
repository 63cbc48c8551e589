"""Seven common uses, as programs write them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from kernels_core import (
    CUDAProperties,
    Device,
    LayerRepository,
    Mode,
    kernelize,
    register_kernel_mapping,
    replace_kernel_forward_from_hub,
    report,
    use_kernel_forward_from_hub,
    use_kernel_mapping,
)

X = torch.randn(4, 8)


@use_kernel_forward_from_hub("SiluAndMul")
class SiluAndMul(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        return F.silu(x[..., :half]) * x[..., half:]


@pytest.fixture
def activation(make_kernel):
    """A kernel repository with a layer for inference only and one for training with compile."""
    return make_kernel(
        """
        from torch.nn import functional as F


        class SiluAndMul(nn.Module):
            has_backward = False

            def forward(self, x):
                gate, up = x.chunk(2, dim=-1)
                return F.silu(gate).mul_(up)


        class SiluAndMulTraining(nn.Module):
            can_torch_compile = True

            def forward(self, x):
                gate, up = x.chunk(2, dim=-1)
                return F.silu(gate) * up
        """,
        name="activation",
    )


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(8, 8), SiluAndMul())


def kernel_of(kernelized):
    (row,) = report(kernelized).rows
    return row.kernel


def test_1_decorating_a_layer(activation, model):
    assert SiluAndMul.kernel_layer_name == "SiluAndMul"
    expected = model(X)
    with use_kernel_mapping({"SiluAndMul": {"cpu": activation("SiluAndMul")}}):
        kernelize(model, mode=Mode.INFERENCE)
    assert kernel_of(model) == "SiluAndMul"
    with torch.no_grad():
        torch.testing.assert_close(model(X), expected)


def test_2_a_class_of_another_package(make_kernel):
    class LayerNorm(nn.LayerNorm):
        """Takes the place of a class of another package, which cannot be decorated."""

    replace_kernel_forward_from_hub(LayerNorm, "LayerNorm")
    kernel = make_kernel(
        """
        class FusedLayerNorm(nn.Module):
            normalized_shape: tuple
            weight: torch.Tensor
            bias: torch.Tensor
            eps: float

            def forward(self, input):
                return torch.layer_norm(
                    input, self.normalized_shape, self.weight, self.bias, self.eps
                )
        """
    )
    register_kernel_mapping({"LayerNorm": {"cpu": kernel("FusedLayerNorm")}})
    model = LayerNorm(8)
    expected = model(X)
    kernelize(model, mode=Mode.TRAINING)
    assert kernel_of(model) == "FusedLayerNorm"
    torch.testing.assert_close(model(X), expected)


def test_3_a_temporary_mapping(activation, model):
    with use_kernel_mapping({"SiluAndMul": {"cpu": activation("SiluAndMul")}}):
        kernelize(model, mode=Mode.INFERENCE)
        assert kernel_of(model) == "SiluAndMul"
    kernelize(model, mode=Mode.INFERENCE)
    assert kernel_of(model) is None


def test_4_a_registered_mapping_simple_and_per_mode(activation, model):
    register_kernel_mapping({"SiluAndMul": {"cpu": activation("SiluAndMul")}})
    kernelize(model, mode=Mode.INFERENCE)
    assert kernel_of(model) == "SiluAndMul"
    register_kernel_mapping(
        {
            "SiluAndMul": {
                "cpu": {
                    Mode.INFERENCE: activation("SiluAndMul"),
                    Mode.TRAINING | Mode.TORCH_COMPILE: activation("SiluAndMulTraining"),
                }
            }
        }
    )
    kernelize(model, mode=Mode.INFERENCE)
    assert kernel_of(model) == "SiluAndMul"
    kernelize(model, mode=Mode.TRAINING)
    assert kernel_of(model) == "SiluAndMulTraining"


def test_5_kernelizing_for_training_with_compile(activation, model):
    mapping = {
        "SiluAndMul": {
            "cpu": {
                Mode.FALLBACK: activation("SiluAndMul"),
                Mode.TRAINING | Mode.TORCH_COMPILE: activation("SiluAndMulTraining"),
            }
        }
    }
    expected = model(X)
    with use_kernel_mapping(mapping):
        kernelize(model, mode=Mode.TRAINING | Mode.TORCH_COMPILE)
    assert kernel_of(model) == "SiluAndMulTraining"
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(X), expected)
    compiled(X).sum().backward()
    assert model[0].weight.grad.abs().sum() > 0


def test_6_devices_with_and_without_capability_ranges(activation, model):
    register_kernel_mapping(
        {
            "SiluAndMul": {
                "cuda": LayerRepository("org/activation", "SiluAndMul"),
                "rocm": LayerRepository("org/activation", "SiluAndMul"),
                Device("cuda", CUDAProperties(min_capability=75, max_capability=89)): (
                    LayerRepository("org/activation-ampere", "SiluAndMul")
                ),
                Device(
                    type="cuda", properties=CUDAProperties(min_capability=90, max_capability=90)
                ): LayerRepository("org/activation-hopper", "SiluAndMul"),
                Device("cpu"): activation("SiluAndMul"),
            }
        }
    )
    kernelize(model, mode=Mode.INFERENCE)
    assert kernel_of(model) == "SiluAndMul", "entries for absent devices do no harm"


def test_7_repositories_by_revision_and_by_version():
    repositories = [
        LayerRepository(repo_id="org/activation", layer_name="SiluAndMul", revision="v0.0.3"),
        LayerRepository(repo_id="org/activation", layer_name="SiluAndMul", version=">=0.0.3,<0.1"),
        LayerRepository(repo_id="org/activation", layer_name="SiluAndMul", version=1),
    ]
    assert len(set(repositories)) == 3
