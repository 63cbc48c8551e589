"""Which backend serves a device type, and the error when none does."""

from __future__ import annotations

import pytest

from kernels_core.errors import (
    BackendNotInstalledError,
    BackendUnavailableError,
    EnvironmentVariableError,
    PluginConflictError,
    PluginError,
    UnknownDeviceError,
)

ABSENT = "Detection(0, reason='no such device for {name}')"


def install(installed_plugins, *names: str, **absent_or_broken: str) -> None:
    for name in names:
        installed_plugins.install(name)
    for name, detection in absent_or_broken.items():
        installed_plugins.install(name, detection=detection)


def test_a_backend_is_found_by_its_name_and_by_its_torch_type(installed_plugins):
    installed_plugins.install("acme", torch_device_type="privateuseone")
    registry = installed_plugins.load()
    assert registry.backend_for("acme").name == "acme"
    assert registry.backend_for("privateuseone").name == "acme"
    assert registry.backend("acme").name == "acme"
    with pytest.raises(UnknownDeviceError):
        registry.backend("privateuseone")


@pytest.mark.parametrize(
    ("cuda", "rocm", "cuda_means"),
    [("Detection(1)", ABSENT, "cuda"), (ABSENT, "Detection(1)", "rocm")],
)
def test_detection_decides_what_cuda_means(installed_plugins, cuda, rocm, cuda_means):
    installed_plugins.install("cuda", detection=cuda)
    installed_plugins.install("rocm", torch_device_type="cuda", detection=rocm)
    registry = installed_plugins.load()
    assert registry.backend_for("cuda").name == cuda_means
    assert registry.backend_for(cuda_means).name == cuda_means
    assert registry.default_backend().name == cuda_means


def test_neither_is_available(installed_plugins):
    installed_plugins.install("cuda", detection=ABSENT)
    installed_plugins.install("rocm", torch_device_type="cuda", detection=ABSENT)
    registry = installed_plugins.load()
    with pytest.raises(BackendUnavailableError) as raised:
        registry.backend_for("cuda")
    assert "cuda (cuda-kernels 0.1): no such device for cuda" in str(raised.value)
    assert "rocm (rocm-kernels 0.1): no such device for rocm" in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.backend == "cuda"
    with pytest.raises(BackendUnavailableError) as raised:
        registry.backend_for("rocm")
    assert "cuda-kernels" not in str(raised.value)


def test_among_several_the_name_then_the_priority_then_the_order_of_names(installed_plugins):
    installed_plugins.install("acme", torch_device_type="gpu", priority=1)
    installed_plugins.install("beta", torch_device_type="gpu", priority=5)
    installed_plugins.install("zeta", torch_device_type="gpu", priority=5)
    installed_plugins.install("shape", torch_device_type="acme", priority=200)
    registry = installed_plugins.load()
    assert registry.backend_for("gpu").name == "beta"
    assert registry.backend_for("acme").name == "acme"
    assert registry.default_backend().name == "shape"


def test_the_default_is_the_available_one_of_the_highest_priority(installed_plugins):
    installed_plugins.install("cpu", priority=0)
    installed_plugins.install("acme", detection=ABSENT)
    installed_plugins.install("zeta")
    assert installed_plugins.load().default_backend().name == "zeta"


def test_a_lower_priority_is_not_asked_when_a_higher_one_serves(installed_plugins):
    installed_plugins.install("acme", detection="1 / 0", priority=1)
    installed_plugins.install("zeta")
    assert installed_plugins.load().default_backend().name == "zeta"
    assert installed_plugins.load().failures == ()


@pytest.mark.parametrize("chosen", ["zeta", " ZETA "])
def test_the_environment_decides_among_several(installed_plugins, monkeypatch, chosen):
    installed_plugins.install("acme", torch_device_type="gpu")
    installed_plugins.install("zeta", torch_device_type="gpu", priority=1)
    installed_plugins.install("gpu", priority=200)
    monkeypatch.setenv("KERNELS_BACKEND", chosen)
    registry = installed_plugins.load()
    assert registry.backend_for("gpu").name == "zeta"
    assert registry.default_backend().name == "zeta"
    # It serves another type of device, so it is not considered here.
    assert registry.backend_for("acme").name == "acme"


@pytest.mark.parametrize(
    ("chosen", "error", "says"),
    [
        ("abacus", UnknownDeviceError, "KERNELS_BACKEND=abacus: no plugin provides 'abacus'"),
        ("cuda", BackendNotInstalledError, "KERNELS_BACKEND=cuda.*pip install kernels-backend-cud"),
        ("broken", BackendUnavailableError, "KERNELS_BACKEND=broken.*no luck"),
        ("first", PluginConflictError, "first-kernels 0.1.*second-kernels 0.1"),
        ("blocked", BackendNotInstalledError, "KERNELS_BACKEND=blocked.*DISABLED_BACKENDS lists"),
    ],
)
def test_the_environment_names_a_backend_that_cannot_be_used(
    installed_plugins, monkeypatch, chosen, error, says
):
    install(installed_plugins, "acme", "blocked", "first")
    installed_plugins.install("second", declares="first")
    installed_plugins.install("broken", source="raise RuntimeError('no luck')")
    monkeypatch.setenv("KERNELS_DISABLED_BACKENDS", "blocked")
    monkeypatch.setenv("KERNELS_BACKEND", chosen)
    registry = installed_plugins.load()
    for ask in (registry.default_backend, lambda: registry.backend_for("acme")):
        with pytest.raises(error, match=says):
            ask()
    assert registry.backend("acme").name == "acme"


def test_the_environment_names_a_backend_that_is_not_available(installed_plugins, monkeypatch):
    install(installed_plugins, "acme", zeta=ABSENT)
    monkeypatch.setenv("KERNELS_BACKEND", "zeta")
    registry = installed_plugins.load()
    for ask in (registry.default_backend, lambda: registry.backend_for("zeta")):
        with pytest.raises(BackendUnavailableError, match="KERNELS_BACKEND=zeta") as raised:
            ask()
        assert "no such device for zeta" in str(raised.value)
        assert "acme" not in str(raised.value)
    assert registry.backend_for("acme").name == "acme"


def test_a_failing_detection_is_unavailable_recorded_and_the_cause(installed_plugins):
    install(installed_plugins, "zeta", acme="1 / 0")
    registry = installed_plugins.load()
    assert registry.failures == ()
    for _ in range(2):
        with pytest.raises(BackendUnavailableError) as raised:
            installed_plugins.watch(registry.backend_for, "acme")
        cause = raised.value.__cause__
        assert isinstance(cause, PluginError)
        assert "ZeroDivisionError" in repr(cause.__cause__)
        assert str(raised.value).count("ZeroDivisionError") == 1
    (failure,) = registry.failures
    assert (failure.plugin, failure.phase, str(failure.error)) == ("acme", "detect", str(cause))
    assert len(installed_plugins.warnings) == 1
    # It can still distinguish its own tags from others.
    assert registry.parse_tag("acme") is not None
    assert registry.backend_for("zeta").name == "zeta"


def test_the_default_goes_on_without_a_failing_detection_and_says_so(installed_plugins):
    installed_plugins.install("cpu", priority=0)
    installed_plugins.install("acme", detection="1 / 0")
    registry = installed_plugins.load()
    assert installed_plugins.watch(registry.default_backend).name == "cpu"
    (warning,) = installed_plugins.warnings
    assert "acme-kernels 0.1" in warning
    assert "ZeroDivisionError" in warning


def test_a_failed_plugin_is_named_beside_the_unavailable_ones(installed_plugins):
    installed_plugins.install("cuda", source="raise RuntimeError('no luck')")
    installed_plugins.install("rocm", torch_device_type="cuda", detection=ABSENT)
    registry = installed_plugins.load()
    with pytest.raises(BackendUnavailableError) as raised:
        registry.backend_for("cuda")
    assert "no such device for rocm" in str(raised.value)
    assert "no luck" in str(raised.value)
    assert raised.value.__cause__ is registry.failures[0].error


def test_a_blocked_plugin_is_named_beside_the_unavailable_ones(installed_plugins, monkeypatch):
    installed_plugins.install("cuda")
    installed_plugins.install("rocm", torch_device_type="cuda", detection=ABSENT)
    monkeypatch.setenv("KERNELS_DISABLED_BACKENDS", "cuda")
    with pytest.raises(BackendUnavailableError) as raised:
        installed_plugins.load().backend_for("cuda")
    assert "no such device for rocm" in str(raised.value)
    assert "KERNELS_DISABLED_BACKENDS lists 'cuda'" in str(raised.value)


def test_a_failed_plugin_that_served_the_torch_type_is_named(installed_plugins):
    installed_plugins.install("rocm", torch_device_type="cuda")
    installed_plugins.install("other", declares="rocm", torch_device_type="cuda")
    registry = installed_plugins.load()
    with pytest.raises(PluginConflictError, match="rocm-kernels"):
        registry.backend_for("cuda")


def test_a_contested_name_is_a_conflict_beside_an_unavailable_backend_too(installed_plugins):
    installed_plugins.install("cuda")
    installed_plugins.install("other", declares="cuda")
    installed_plugins.install("rocm", torch_device_type="cuda", detection=ABSENT)
    registry = installed_plugins.load()
    with pytest.raises(PluginConflictError, match="cuda-kernels"):
        registry.backend_for("cuda")
    with pytest.raises(BackendUnavailableError):
        registry.backend_for("rocm")


def test_a_contested_name_does_not_stand_in_the_way_of_a_device(installed_plugins):
    installed_plugins.install("cuda")
    installed_plugins.install("other", declares="cuda")
    installed_plugins.install("rocm", torch_device_type="cuda")
    assert installed_plugins.load().backend_for("cuda").name == "rocm"


def test_a_known_type_without_a_plugin_names_the_package(installed_plugins):
    install(installed_plugins, "acme")
    registry = installed_plugins.load()
    for ask in (registry.backend, registry.backend_for):
        with pytest.raises(BackendNotInstalledError) as raised:
            ask("cuda")
        assert raised.value.backend == "cuda"
        assert "pip install kernels-backend-cuda" in str(raised.value)
        assert "Installed backends: acme" in str(raised.value)


def test_an_unknown_type_lists_what_is_installed(installed_plugins):
    install(installed_plugins, "acme", "zeta")
    registry = installed_plugins.load()
    for ask in (registry.backend, registry.backend_for):
        with pytest.raises(UnknownDeviceError, match="Installed backends: acme, zeta") as raised:
            ask("abacus")
        assert raised.value.device == "abacus"


def test_no_backend_at_all(installed_plugins):
    registry = installed_plugins.load()
    with pytest.raises(BackendNotInstalledError, match="pip install kernels-backend-"):
        registry.default_backend()
    with pytest.raises(UnknownDeviceError, match="Installed backends: none"):
        registry.backend_for("abacus")


def test_the_default_lists_everything_that_cannot_serve(installed_plugins, monkeypatch):
    install(installed_plugins, "blocked", acme=ABSENT)
    installed_plugins.install("broken", source="raise RuntimeError('no luck')")
    monkeypatch.setenv("KERNELS_DISABLED_BACKENDS", "blocked")
    registry = installed_plugins.load()
    with pytest.raises(BackendUnavailableError) as raised:
        registry.default_backend()
    for text in ("no such device for acme", "no luck", "KERNELS_DISABLED_BACKENDS lists"):
        assert text in str(raised.value)
    assert raised.value.__cause__ is registry.failures[0].error


def test_a_flag_that_cannot_be_understood(installed_plugins, monkeypatch):
    installed_plugins.install("acme", source="raise RuntimeError('no luck')")
    monkeypatch.setenv("KERNELS_STRICT_PLUGINS", "perhaps")
    with pytest.raises(EnvironmentVariableError, match="perhaps"):
        installed_plugins.load()
