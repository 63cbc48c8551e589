"""Kernels are imported once, apart from each other, and again after they were repaired."""

import contextlib
import importlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from layers.models import Scale
from torch import nn

import kernels_core
from kernels_core import (
    LayerRepository,
    LocalLayerRepository,
    Mode,
    errors,
    get_local_kernel,
    kernelize,
    register_kernel_mapping,
    unkernelize,
    use_kernel_forward_from_hub,
)

THREADS = 16
X = torch.ones(3)

COUNTING = """
import sys
import time

sys._imports_of_the_test.append(__name__)
time.sleep(0.05)

from . import layers
"""
LAYERS = """
from torch import nn


class Scale(nn.Module):
    def forward(self, x):
        return {factor} * self.weight * x
"""


@pytest.fixture
def imports(monkeypatch):
    """The names under which kernels were imported; each kernel appends its own."""
    names = []
    monkeypatch.setattr(sys, "_imports_of_the_test", names, raising=False)
    return names


@pytest.fixture
def write(make_repository):
    def write(name="kernel", factor=10, metadata=None):
        files = {"__init__.py": COUNTING, "layers.py": LAYERS.format(factor=factor)}
        if metadata:
            files["metadata.json"] = metadata
        return make_repository({"torch-cpu": files}, name=name)

    return write


def together(action):
    """What sixteen threads get that start an action at the same moment."""
    barrier = threading.Barrier(THREADS)

    def run(_):
        barrier.wait()
        return action()

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


def mapping_to(path):
    return {"Scale": {"cpu": LocalLayerRepository(path, layer_name="Scale")}}


def test_sixteen_threads_that_get_a_kernel_import_it_once(write, imports):
    path = write()
    kernels = together(lambda: get_local_kernel(path, backend="cpu"))
    assert len(set(map(id, kernels))) == 1
    assert kernels[0].layers.Scale, "no thread got it half imported"
    assert len(imports) == 1


def test_sixteen_threads_that_kernelize_import_the_kernel_once(write, imports):
    mapping = mapping_to(write())

    def kernelized():
        return kernelize(Scale(), mode=Mode.INFERENCE, mapping=mapping)

    modules = together(kernelized)
    assert len(imports) == 1
    assert [module(X).tolist() for module in modules] == [[20, 20, 20]] * THREADS
    assert len(set(map(type, modules))) == 1, "torch.compile would take each class for another"


def test_sixteen_threads_may_kernelize_one_model(write, imports):
    mapping = mapping_to(write())
    model = nn.Sequential(Scale(), Scale())

    def kernelized():
        # Another thread may be faster, and its result is the same.
        with contextlib.suppress(errors.StalePlanError):
            kernelize(model, mode=Mode.INFERENCE, mapping=mapping)

    together(kernelized)
    assert model(X).tolist() == [400, 400, 400]
    assert kernels_core.report(model).rows[0].count == 2


def test_repositories_on_the_hub_are_resolved_once_beside_one_on_disk(write, imports):
    local = LocalLayerRepository(write(), layer_name="Scale")
    resolved = []

    class OnHub(LayerRepository):
        """A repository on the Hub whose build is in the cache."""

        def resolve(self, backend, device_index):
            resolved.append((self.repo_id, device_index))
            return local.resolve(backend, device_index)

    classes = [type(f"Scale{number}", (Scale,), {"forward": Scale.forward}) for number in range(3)]
    for number, cls in enumerate(classes):
        use_kernel_forward_from_hub(f"Scale{number}")(cls)
    mapping = {
        "Scale0": {"cpu": OnHub("org/one", "Scale")},
        "Scale1": {"cpu": OnHub("org/two", "Scale")},
        "Scale2": {"cpu": local},
    }
    model = nn.Sequential(*(cls() for cls in classes))
    kernelize(model, mode=Mode.INFERENCE, mapping=mapping)
    assert model(X).tolist() == [8000, 8000, 8000]
    assert sorted(resolved) == [("org/one", 0), ("org/two", 0)]


def test_kernels_of_one_metadata_id_do_not_mix(write, imports):
    metadata = {"id": "same", "name": "same", "version": 1}
    paths = [write(name, factor, metadata) for name, factor in (("first", 10), ("second", 100))]
    first, second = (get_local_kernel(path, backend="cpu") for path in paths)
    assert first is not second
    assert first.layers is not second.layers
    factors = [
        kernelize(Scale(), mode=Mode.INFERENCE, mapping=mapping_to(path))(X)[0].item()
        for path in paths
    ]
    assert factors == [20, 200]
    assert len(imports) == 2


def test_a_kernel_that_failed_can_be_loaded_after_it_was_repaired(write, imports):
    path = write()
    source = path / "build" / "torch-cpu" / "layers.py"
    right = source.read_text()
    source.write_text("raise RuntimeError('broken')")
    module, mapping = Scale(), mapping_to(path)
    with pytest.raises(errors.KernelImportError, match="broken"):
        kernelize(module, mode=Mode.INFERENCE, mapping=mapping)
    with pytest.raises(RuntimeError, match="broken"):
        get_local_kernel(path, backend="cpu")
    assert module(X).tolist() == [2, 2, 2]
    source.write_text(right)
    assert kernelize(module, mode=Mode.INFERENCE, mapping=mapping)(X).tolist() == [20, 20, 20]
    assert get_local_kernel(path, backend="cpu").layers.Scale is not None


def test_a_kernel_that_was_reloaded_is_used_from_then_on(make_kernel):
    source = "class Times(nn.Module):\n    def forward(self, x): return {} * self.weight * x\n"
    repository = make_kernel(source.format(10))("Times")
    register_kernel_mapping({"Scale": {"cpu": repository}})
    model = kernelize(Scale(), mode=Mode.INFERENCE)
    assert model(X).tolist() == [20, 20, 20]
    module = get_local_kernel(repository.repo_path)
    file = Path(module.layers.__file__)
    file.write_text(file.read_text().replace("10 *", "1000 *"))
    importlib.reload(module.layers)
    assert kernelize(model, mode=Mode.INFERENCE)(X).tolist() == [2000, 2000, 2000]
    assert unkernelize(model)(X).tolist() == [2, 2, 2]
