"""What users install: the wheels themselves, and how they work beside broken ones."""

from __future__ import annotations

import pytest

BACKENDS = ["cpu", "cuda", "mps", "rocm", "xpu"]

# The names under which the broken plugins of `broken/` are switched off.
WITHOUT_BROKEN = {"KERNELS_DISABLED_BACKENDS": "acme,acme_xpu"}


def test_no_backend_is_missing(backend_wheels):
    assert set(BACKENDS) <= set(backend_wheels)
    for name, wheel in backend_wheels.items():
        assert wheel.name == f"kernels-backend-{name}"


def test_versions_move_together(core_wheel, backend_wheels):
    for wheel in backend_wheels.values():
        assert wheel.version == core_wheel.version
        (requirement,) = [r for r in wheel.requirements if r.name == core_wheel.name]
        assert requirement.specifier.contains(core_wheel.version)


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
    assert backend_wheels[name].entry_points.split() == [
        "[kernels_core.backends]",
        name,
        "=",
        f"kernels_backend_{name}.plugin",
    ]


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
    declared, reasons = environment.run(code, **WITHOUT_BROKEN)
    version = core_wheel.version
    assert declared == {name: [name, f"kernels-backend-{name} {version}"] for name in BACKENDS}
    # The host's processor is always there; no accelerator can be used without torch.
    assert reasons.pop("cpu") == ""
    assert all(reasons.values()), reasons


def test_broken_plugins_are_quarantined_with_one_warning_each(environment, core_wheel):
    code = """
import warnings
from kernels_core.plugins import registry
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        registry().parse_tag("cu130")
failures = [[f.plugin, f.distribution, f.phase, f.traceback] for f in registry().failures]
tell([list(registry().backends), failures, [str(w.message) for w in caught]])
"""
    backends, failures, warnings = environment.run(code)
    assert backends == ["cpu", "cuda", "mps", "rocm"]
    xpu = f"kernels-backend-xpu {core_wheel.version}"
    assert [failure[:3] for failure in failures] == [
        ["acme", "acme-raises-on-import 1.0", "import"],
        ["acme_xpu", "acme-takes-a-name 2.0", "declare"],
        ["xpu", xpu, "declare"],
    ]
    assert "libacme.so.1" in failures[0][3]
    assert "acme_raises_on_import" in failures[0][3]
    assert len(warnings) == 3
    for (plugin, distribution, phase, _), warning in zip(failures, warnings, strict=True):
        for text in (repr(plugin), distribution, phase, "`kernels-core doctor`"):
            assert text in warning
    assert xpu in warnings[1]
    assert "acme-takes-a-name 2.0" in warnings[2]


ASK = """
import warnings
warnings.simplefilter("ignore")
from kernels_core.plugins import registry
try:
    registry().backend_for(NAME)
except Exception as error:
    cause = error.__cause__
    chain = [error, cause, cause and cause.__cause__]
    tell([[type(link).__name__, str(link)] for link in chain])
"""


def test_asking_for_a_plugin_that_raised_shows_what_it_raised(environment):
    chain = environment.run(f"NAME = 'acme'\n{ASK}")
    assert [name for name, _ in chain] == ["BackendUnavailableError", "PluginError", "OSError"]
    assert "libacme.so.1" in chain[0][1]
    assert "acme-raises-on-import 1.0" in chain[1][1]


def test_asking_for_a_contested_name_shows_both_claimants(environment, core_wheel):
    chain = environment.run(f"NAME = 'xpu'\n{ASK}")
    name, message = chain[0]
    assert name == "PluginConflictError"
    assert f"kernels-backend-xpu {core_wheel.version}" in message
    assert "acme-takes-a-name 2.0" in message


def test_the_others_work_beside_broken_ones(environment):
    code = """
import warnings
warnings.simplefilter("ignore")
from kernels_core.plugins import registry
texts = ["cpu", "cu130", "rocm71", "metal", "xpu20253"]
tags = {text: registry().parse_tag(text) for text in texts}
tell({text: tag and [tag.backend, str(tag)] for text, tag in tags.items()})
"""
    assert environment.run(code) == {
        "cpu": ["cpu", "cpu"],
        "cu130": ["cuda", "cu130"],
        "rocm71": ["rocm", "rocm71"],
        "metal": ["mps", "metal"],
        "xpu20253": None,
    }


def test_strict_mode_raises_for_a_broken_plugin(environment):
    code = """
from kernels_core.plugins import registry
try:
    registry()
except Exception as error:
    tell([type(error).__name__, error.plugin, error.phase])
"""
    result = environment.run(code, KERNELS_STRICT_PLUGINS="1")
    assert result == ["PluginError", "acme", "import"]
