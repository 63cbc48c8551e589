"""The XPU backend when its devices cannot be used, and how it names architectures."""

from typing import Any

import pytest

from kernels_backend_xpu import _probe, plugin
from kernels_backend_xpu.facts import XPUFacts, architecture_name
from kernels_core.device import Architectures
from kernels_core.hookspecs import BackendTag, Detection


def detect(runtime: _probe.Runtime, monkeypatch: pytest.MonkeyPatch, make_host: Any) -> Detection:
    monkeypatch.setattr(_probe, "runtime", lambda: runtime)
    return plugin.kernels_detect(make_host("2.13.0+xpu"))


def test_torch_without_xpu(monkeypatch: pytest.MonkeyPatch, make_host: Any) -> None:
    detection = detect(_probe.Runtime(xpu=None), monkeypatch, make_host)
    assert detection == Detection(0, reason="torch 2.13.0+xpu was built without XPU support")


def test_a_runtime_without_devices(monkeypatch: pytest.MonkeyPatch, make_host: Any) -> None:
    detection = detect(_probe.Runtime("20251001", 0), monkeypatch, make_host)
    assert not detection.available
    assert detection.runtime_version == "2025.10"
    assert detection.reason.startswith("XPU 2025.10 runtime is present, 0 devices")


@pytest.mark.parametrize("version", ["2025.3", "202503021", "latest"])
def test_a_version_that_cannot_be_read_fits_no_build(
    version: str, monkeypatch: pytest.MonkeyPatch, make_host: Any
) -> None:
    detection = detect(_probe.Runtime(version, 1), monkeypatch, make_host)
    assert detection == Detection(1, runtime_version=None)
    assert not plugin.kernels_match_tag(BackendTag("xpu", "xpu", (2025, 3)), detection).fits


# SYCL's enumerators, with the versions of the graphics IP that it gives as their aliases.
@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0x000000030DC00800, "dg2-g10"),  # 12.55.8
        (0x000000030E400000, "dg2-g12"),  # 12.57.0
        (0x000000030F000700, "pvc"),  # 12.60.7
        (0x000000030F400700, "pvc-vg"),  # 12.61.7
        (0x0000000312800400, "arl-h"),  # 12.74.4
        (0x0000000500400400, "bmg-g21"),  # 20.1.4
        (0x0000000500800000, "bmg-g31"),  # 20.2.0
        (0x0000000501000400, "lnl-m"),  # 20.4.4
        (0x0000000780400100, "ptl-u"),  # 30.1.1
        (0x00000008C2800000, "nvl-p"),  # 35.10.0
        (0x00000008C2C00100, "35.11.1"),  # not named yet
        (0x9900000000000000, None),  # SYCL's "unknown"
        (0x0300000000000800, None),  # a processor
        (None, None),
    ],
)
def test_architectures_are_named_as_the_compiler_names_them(
    number: int | None, name: str | None
) -> None:
    assert architecture_name(number) == name


def test_a_device_of_which_torch_tells_only_the_name_answers_to_nothing() -> None:
    facts = XPUFacts(0, "Intel(R) Graphics", architecture=None, device_id=None)
    assert facts.architectures == ()
    match = plugin.kernels_match_device(Architectures(["pvc", "bmg"]), facts)
    assert match.reason == "it is of unknown architecture, and one of bmg, pvc is required"


def test_device_ids_are_required_in_either_case() -> None:
    b580 = XPUFacts(0, "Intel(R) Arc(TM) B580 Graphics", "bmg-g21", 0xE20B)
    assert plugin.kernels_match_device(Architectures("0xE20B"), b580).fits
