"""What programs written for Hugging Face `kernels` do, on kernels of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from kernels_core.compat import kernels
from kernels_core.errors import LayerNotFoundError

MakeRepository = Callable[..., Path]
Run = Callable[..., str]

KERNEL = """
import torch
from torch import nn


def double(x):
    return 2 * x


def broken(x, y):
    return x


not_callable = 1


class layers:
    class Double(nn.Module):
        def forward(self, x):
            return 2 * x

        def extra_repr(self):
            return "doubles"

    class Constructed(nn.Module):
        def __init__(self):
            super().__init__()

        def forward(self, x):
            return x
"""


@pytest.fixture
def repository(make_repository: MakeRepository) -> Path:
    return make_repository({"torch-cpu": {"__init__.py": KERNEL}}, name="act")


def extensible(name: str) -> nn.Module:
    @kernels.use_kernel_forward_from_hub(name)
    class Layer(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    return nn.Sequential(Layer())


@pytest.mark.parametrize(
    "device",
    ["cpu", torch.device("cpu"), kernels.Device("cpu"), kernels.Device(type="cpu"), None],
)
def test_kernelize_takes_every_kind_of_device(repository: Path, device: object) -> None:
    model = extensible("Double")
    layer = kernels.LocalLayerRepository(repo_path=repository, layer_name="Double")
    with kernels.use_kernel_mapping({"Double": {"cpu": {kernels.Mode.INFERENCE: layer}}}):
        if device is None:
            model.register_parameter("weight", nn.Parameter(torch.ones(1)))
        kernels.kernelize(model, mode=kernels.Mode.INFERENCE, device=device)
    assert model(torch.tensor([3.0])).item() == 6


def test_a_layer_with_harmless_overrides_loads_and_one_with_a_constructor_does_not(
    repository: Path,
) -> None:
    assert kernels.LocalLayerRepository(repository, layer_name="Double").load()
    model = extensible("Layer")
    layer = kernels.LocalLayerRepository(repository, layer_name="Constructed")
    with (
        kernels.use_kernel_mapping({"Layer": {"cpu": layer}}),
        pytest.raises(TypeError, match="has a constructor"),
    ):
        kernels.kernelize(model, mode=kernels.Mode.INFERENCE, device="cpu", use_fallback=False)


def test_an_absent_layer_is_a_value_error(repository: Path) -> None:
    with pytest.raises(ValueError, match=r"has no layer 'Triple'.*Constructed, Double"):
        kernels.LocalLayerRepository(repository, layer_name="Triple").load()


def test_a_function_of_a_kernel_serves_as_a_layer(repository: Path) -> None:
    with pytest.warns(FutureWarning, match="use LocalLayerRepository"):
        function = kernels.LocalFuncRepository(repository, func_name="double")
    with pytest.warns(FutureWarning, match="use use_kernel_forward_from_hub"):
        decorator = kernels.use_kernel_func_from_hub("double_it")
    original = decorator(lambda x: x + 1)
    model = nn.Module()
    model.double_it = original
    with kernels.use_kernel_mapping({"double_it": {"cpu": function}}):
        kernels.kernelize(model, mode=kernels.Mode.INFERENCE, device="cpu")
    assert model.double_it(torch.tensor([3.0])).item() == 6
    assert function.func_name == "double"
    assert function.load() is function.load()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_functions_that_cannot_serve_are_refused(repository: Path) -> None:
    for name in ("absent", "not_callable"):
        with pytest.raises(LayerNotFoundError, match=f"no function '{name}'"):
            kernels.LocalFuncRepository(repository, func_name=name).load()
    mapping = {"Layer": {"cpu": kernels.LocalFuncRepository(repository, func_name="broken")}}
    with (
        kernels.use_kernel_mapping(mapping),
        pytest.raises(TypeError, match="cannot replace"),
    ):
        kernels.kernelize(
            extensible("Layer"), mode=kernels.Mode.INFERENCE, device="cpu", use_fallback=False
        )


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_equal_arguments_make_equal_repositories() -> None:
    one = kernels.FuncRepository("org/act", func_name="double", version=1)
    assert one == kernels.FuncRepository("org/act", func_name="double", version=1)
    assert hash(one) == hash(kernels.FuncRepository("org/act", func_name="double", version=1))
    assert one != kernels.FuncRepository("org/act", func_name="double", version=2)
    assert one != kernels.LayerRepository("org/act", layer_name="double", version=1)


def test_loaded_kernels_and_variants_have_the_expected_attributes(repository: Path) -> None:
    module = kernels.get_local_kernel(repository)
    (loaded,) = (k for k in kernels.get_loaded_kernels() if k.module is module)
    assert loaded.repo_info is None
    assert loaded.metadata.python_depends == []
    decisions = kernels.get_kernel_variants(repository)
    assert [(type(d).__name__, d.variant.variant_str) for d in decisions] == [
        ("VariantAccepted", "torch-cpu")
    ]


def test_metadata_is_read_as_programs_expect(tmp_path: Path) -> None:
    file = tmp_path / "metadata.json"
    content = {
        "name": "my-act",
        "version": 2,
        "license": "MIT",
        "kernels-minver": "0.15.0",
        "provenance": {"kernel": {"dirty": True}},
        "backend": {"type": "cuda", "archs": ["9.0"]},
    }
    file.write_text(json.dumps(content))
    metadata = kernels.Metadata.read_from_file(file)
    assert metadata == kernels.Metadata.from_bytes(file.read_bytes())
    assert metadata.provenance.dirty
    assert str(metadata.backend.backend_type) == "cuda"
    assert metadata.backend.archs == ["9.0"]
    assert kernels.Metadata.from_bytes(b"{}").provenance is None
    assert metadata.name == "my-act"
    assert metadata.name.python_name == "my_act"
    assert (metadata.version, metadata.license, metadata.kernels_minver) == (2, "MIT", "0.15.0")
    with pytest.raises(FileNotFoundError):
        kernels.Metadata.read_from_file(tmp_path / "absent.json")
    with pytest.raises(ValueError, match=r"metadata\.json: key 'version'"):
        kernels.Metadata.from_bytes(b'{"version": "one"}')


ASKS = """
from kernels import get_kernel_dep
import kernels as loader
import kernels.layer.mode
from kernels.layer import Mode

LOADER = get_kernel_dep.__module__, kernels.layer.mode.Mode is Mode


def later():
    from kernels import Device

    return Device.__module__
"""
USES = """
import sys
from pathlib import Path

import kernels_core

kernel = kernels_core.get_local_kernel(Path(sys.argv[1]))
print(*kernel.LOADER, kernel.later())
"""


@pytest.mark.parametrize("other", ["absent", "present", "active"])
def test_a_kernel_that_asks_its_loader_gets_this_one(
    run: Run, make_repository: MakeRepository, tmp_path: Path, other: str
) -> None:
    repository = make_repository({"torch-cpu": {"__init__.py": ASKS}}, name="asks")
    site = tmp_path / "site"
    (site / "kernels").mkdir(parents=True)
    broken = "raise ImportError('No module named kernels')" if other == "absent" else "OTHER = 1"
    (site / "kernels" / "__init__.py").write_text(broken)
    program = USES.replace("sys.argv[1]", repr(str(repository)))
    if other == "present":
        program = "import kernels\n" + program + "assert kernels.OTHER\n"
    if other != "active":
        program += "assert 'kernels' not in sys.modules or sys.modules['kernels'].OTHER\n"
    printed = run(program, activate=other == "active", path=(site,))
    assert printed.split() == ["kernels_core.loading.loaded", "True", "kernels_core.device"]
