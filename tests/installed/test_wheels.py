"""What users install: the wheels themselves."""

from __future__ import annotations

import configparser

import pytest

BACKENDS = ["cpu", "cuda", "mps", "rocm", "xpu"]


# Distributions of kernels that several backends depend on.
BUNDLED = ["bundled-triton"]


def test_no_distribution_is_missing(backend_wheels):
    names = {folder: wheel.name for folder, wheel in backend_wheels.items()}
    backends = {name: f"kernels-backend-{name}" for name in BACKENDS}
    assert names == {**backends, **{name: f"kernels-{name}" for name in BUNDLED}}


def test_versions_move_together(core_wheel, backend_wheels):
    ours = {wheel.name: wheel.version for wheel in (core_wheel, *backend_wheels.values())}
    assert set(ours.values()) == {core_wheel.version}
    for wheel in backend_wheels.values():
        required = {r.name: r.specifier for r in wheel.requirements if r.name in ours}
        assert core_wheel.name in required
        assert all(specifier.contains(ours[name]) for name, specifier in required.items())


@pytest.mark.parametrize("name", ["cuda", "rocm", "xpu"])
def test_backends_of_gpus_require_the_kernels_that_they_provide(environment, backend_wheels, name):
    required = {requirement.name for requirement in backend_wheels[name].requirements}
    assert "kernels-bundled-triton" in required
    code = f"""
from kernels_bundled_triton import bundled_mapping
from kernels_core.plugins import registry
tell([registry().backend({name!r}).bundled() == bundled_mapping({name!r}), bundled_mapping("x")])
"""
    # Without Triton there are none.
    assert environment.run(code) == [True, {}]


def test_wheels_hold_every_file_of_their_package_and_nothing_else(core_wheel, backend_wheels):
    for wheel in (core_wheel, *backend_wheels.values()):
        package = wheel.source / wheel.name.replace("-", "_")
        expected = {
            path.relative_to(wheel.source).as_posix()
            for path in package.rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }
        packed = {name for name in wheel.files if ".dist-info/" not in name}
        assert packed == expected
        assert f"{package.name}/py.typed" in packed


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_names_its_plugin(backend_wheels, name):
    groups = configparser.ConfigParser()
    groups.read_string(backend_wheels[name].entry_points)
    assert dict(groups["kernels_core.backends"]) == {name: f"kernels_backend_{name}.plugin"}


def test_only_the_backends_need_torch(core_wheel, backend_wheels):
    assert "torch" not in {requirement.name for requirement in core_wheel.requirements}
    for name in BACKENDS:
        assert "torch" in {r.name for r in backend_wheels[name].requirements}


def test_importing_the_core_needs_no_torch_and_loads_nothing(environment):
    code = """
import importlib.util, sys
import kernels_core
from kernels_core import Mode, Device, LayerRepository, kernelize, use_kernel_forward_from_hub
heavy = {"torch", "huggingface_hub", "pluggy", "importlib.metadata", "packaging"}
tell([kernels_core.__file__, sorted(heavy & set(sys.modules)), importlib.util.find_spec("torch")])
"""
    file, loaded, torch = environment.run(code)
    assert file.startswith(str(environment.folder))
    assert loaded == []
    assert torch is None


def test_every_backend_declares_and_says_what_it_lacks(environment, core_wheel):
    code = """
import sys, warnings
warnings.simplefilter("error")
from kernels_core.plugins import registry
backends = registry().backends
declared = {name: [backend.plugin, backend.distribution] for name, backend in backends.items()}
tell([declared, {name: b.detection().reason for name, b in backends.items()}])
"""
    declared, reasons = environment.run(code)
    version = core_wheel.version
    assert declared == {name: [name, f"kernels-backend-{name} {version}"] for name in BACKENDS}
    # The host's processor is always available; no accelerator can be used without torch.
    assert reasons.pop("cpu") == ""
    assert all(reasons.values()), reasons
