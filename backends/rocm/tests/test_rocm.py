"""The ROCm backend when its devices cannot be used."""

from typing import Any

import pytest

from kernels_backend_rocm import _probe, plugin
from kernels_backend_rocm.facts import ROCMFacts
from kernels_core.device import Architectures
from kernels_core.hookspecs import BackendTag, Detection


def detect(runtime: _probe.Runtime, monkeypatch: pytest.MonkeyPatch, make_host: Any) -> Detection:
    monkeypatch.setattr(_probe, "runtime", lambda: runtime)
    return plugin.kernels_detect(make_host("2.13.0+rocm7.2"))


def test_torch_without_rocm(monkeypatch: pytest.MonkeyPatch, make_host: Any) -> None:
    detection = detect(_probe.Runtime(hip=None), monkeypatch, make_host)
    assert detection == Detection(0, reason="torch 2.13.0+rocm7.2 was built without ROCm")


def test_a_runtime_without_devices(monkeypatch: pytest.MonkeyPatch, make_host: Any) -> None:
    detection = detect(_probe.Runtime("7.2.26015", "7.2.0", 0), monkeypatch, make_host)
    assert not detection.available
    assert detection.runtime_version == "7.2"
    assert detection.reason.startswith("ROCm 7.2 runtime is present, 0 devices")


def test_a_version_that_cannot_be_read_fits_no_build(
    monkeypatch: pytest.MonkeyPatch, make_host: Any
) -> None:
    detection = detect(_probe.Runtime("unknown", None, 1), monkeypatch, make_host)
    assert detection == Detection(1, runtime_version=None)
    match = plugin.kernels_match_tag(BackendTag("rocm", "rocm", (7, 2)), detection)
    assert match.reason == "built for rocm 7.2, and the runtime is unknown"


def test_equal_capabilities_do_not_mean_equal_architectures() -> None:
    mi210 = ROCMFacts(0, "AMD Instinct MI210", "gfx90a:sramecc+:xnack-", (9, 0))
    mi100 = ROCMFacts(1, "AMD Instinct MI100", "gfx908:sramecc+:xnack-", (9, 0))
    required = Architectures("gfx90a")
    assert plugin.kernels_match_device(required, mi210).fits
    assert plugin.kernels_match_device(required, mi100).reason == (
        "it is gfx908:sramecc+:xnack-, and gfx90a is required"
    )


def test_an_architecture_without_a_family_answers_to_its_own_name_only() -> None:
    assert ROCMFacts(0, "a new one", "gfx9999", (99, 9)).architectures == ("gfx9999",)
