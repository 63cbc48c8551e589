"""Which kernel a module runs."""

import copy
import pickle
from pathlib import Path

import pytest
from layers.models import Scale
from torch import nn

from kernels_core import (
    LayerKernel,
    Mode,
    kernel_of,
    kernelize,
    unkernelize,
    use_kernel_forward_from_hub,
    use_kernel_mapping,
)


@pytest.fixture
def expected(tmp_path: Path) -> LayerKernel:
    """The kernel of `scaled("Times10")`."""
    return LayerKernel("Times10", str(tmp_path / "kernel"), "torch-cpu")


@pytest.fixture
def model(scaled):
    made = nn.Sequential(Scale(), nn.Linear(3, 3))
    with use_kernel_mapping({"Scale": {"cpu": scaled("Times10")}}):
        return kernelize(made, mode=Mode.INFERENCE)


def test_a_kernelized_module_tells_its_kernel(model, expected):
    assert kernel_of(model[0]) == expected
    assert str(kernel_of(model[0])) == f"Times10 from {expected.repository}, variant torch-cpu"


def test_other_modules_run_none(model):
    assert kernel_of(model) is None
    assert kernel_of(model[1]) is None
    assert kernel_of(Scale()) is None


def test_copies_are_kernelized_and_pickles_are_not(model, expected):
    assert kernel_of(copy.deepcopy(model)[0]) == expected
    assert kernel_of(pickle.loads(pickle.dumps(model))[0]) is None


def test_the_last_call_counts(model, scaled, expected):
    with use_kernel_mapping({"Scale": {"cpu": scaled("Times100")}}):
        kernelize(model, mode=Mode.INFERENCE)
    assert kernel_of(model[0]).layer == "Times100"
    unkernelize(model)
    assert kernel_of(model[0]) is None


def test_a_wrapped_kernelized_module_still_tells_its_kernel(model, expected):
    own = model[0].forward
    model[0].forward = lambda x: own(x)
    assert kernel_of(model[0]) == expected


def test_a_repository_of_the_users_own_has_only_a_layer():
    class Own(nn.Module):
        def forward(self, x):
            return 3 * x

    class Repository:
        def load(self):
            return Own

    module = Scale()
    with use_kernel_mapping({"Scale": {"cpu": Repository()}}):
        kernelize(module, mode=Mode.INFERENCE)
    assert kernel_of(module) == LayerKernel("Own")
    assert str(kernel_of(module)) == "Own"


def test_an_extensible_function_tells_its_kernel(make_kernel, tmp_path):
    kernel = make_kernel(
        """
        class Doubled(nn.Module):
            def forward(self, x):
                return 2 * x
        """
    )

    @use_kernel_forward_from_hub("twice")
    def twice(x):
        return x + x

    module = nn.Module()
    module.twice = twice
    with use_kernel_mapping({"twice": {"cpu": kernel("Doubled")}}):
        kernelize(module, mode=Mode.INFERENCE, device="cpu")
    assert kernel_of(twice) == LayerKernel("Doubled", str(tmp_path / "kernel"), "torch-cpu")


def test_a_kernel_shows_its_commit():
    kernel = LayerKernel("Norm", "org/norms", "torch-cuda", "0" * 40)
    assert str(kernel) == f"Norm from org/norms, variant torch-cuda, commit {'0' * 40}"
