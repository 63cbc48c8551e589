"""The MPS backend when its devices cannot be used, and how it queries macOS."""

import subprocess
from typing import Any

import pytest

from kernels_backend_mps import _probe, plugin
from kernels_backend_mps.facts import MPSFacts, chip_family, metal_version
from kernels_core.device import MinimumVersions
from kernels_core.hookspecs import BackendTag, Detection


def must_not_be_asked() -> None:
    raise AssertionError("the machine was asked although the answer is known")


@pytest.mark.parametrize(
    ("system", "cpu"),
    [
        ("linux", "x86_64"),
        ("linux", "aarch64"),
        ("windows", "x86_64"),
        # A Python for Intel under Rosetta: https://github.com/pytorch/pytorch/issues/146236
        ("darwin", "x86_64"),
    ],
)
def test_only_macos_on_apple_silicon_counts(
    system: str, cpu: str, monkeypatch: pytest.MonkeyPatch, make_host: Any
) -> None:
    monkeypatch.setattr(_probe, "support", must_not_be_asked)
    monkeypatch.setattr(_probe, "mac", must_not_be_asked)
    detection = plugin.kernels_detect(make_host("2.13.0", os=system, cpu=cpu))
    assert not detection.available
    assert detection.reason == (
        f"MPS needs macOS on Apple silicon, and this Python runs on {system} {cpu}"
    )


def test_torch_without_mps(monkeypatch: pytest.MonkeyPatch, make_host: Any) -> None:
    monkeypatch.setattr(_probe, "support", lambda: _probe.Support(built=False))
    detection = plugin.kernels_detect(make_host("2.13.0", os="darwin", cpu="aarch64"))
    assert detection.reason == "torch 2.13.0 was built without MPS"


@pytest.mark.parametrize(
    ("processor", "chip"),
    [
        ("Apple M1", "M1"),
        ("Apple M2 Ultra", "M2"),
        ("Apple M1 (Virtual)", "M1"),
        ("Apple M10 Pro", "M10"),
        ("Apple A18 Pro", "A18"),
        ("Apple processor", None),
        ("VirtualApple @ 2.50GHz", None),
    ],
)
def test_chip_families(processor: str, chip: str | None) -> None:
    assert chip_family(processor) == chip


@pytest.mark.parametrize(
    ("macos", "metal"),
    [("11.7", "2.3"), ("12.7.6", "2.4"), ("15.0", "3.2"), ("26.0", "4.0"), ("28.1", "4.0")],
)
def test_metal_versions(macos: str, metal: str) -> None:
    assert metal_version(macos) == metal


@pytest.mark.parametrize(
    ("detection", "reason"),
    [
        (
            Detection(1, runtime_version="15.5"),
            "metal builds need macOS 26.0 or newer, and this is 15.5",
        ),
        (Detection(0, reason="no Mac"), "metal builds need macOS 26.0 on Apple silicon"),
    ],
)
def test_metal_builds_say_which_macos_they_need(detection: Detection, reason: str) -> None:
    assert plugin.kernels_match_tag(BackendTag("mps", "metal"), detection).reason == reason


def test_versions_that_the_backend_does_not_know_are_rejected_by_name() -> None:
    facts = MPSFacts(0, "Apple M4", chip="M4", macos="26.0", metal="4.0")
    match = plugin.kernels_match_device(MinimumVersions({"xcode": "16.0"}), facts)
    assert match.reason == "the version of xcode is not known, only that of metal, macos"


def test_macos_is_asked_by_its_own_tools_for_its_real_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = {
        "/usr/bin/sw_vers": "26.1\n",
        "/usr/sbin/sysctl": "Apple M4 Max\n",
    }

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert options["env"]["SYSTEM_VERSION_COMPAT"] == "0"
        assert options["check"]
        return subprocess.CompletedProcess(command, 0, stdout=answers[command[0]])

    monkeypatch.setenv("SYSTEM_VERSION_COMPAT", "1")
    monkeypatch.setattr(subprocess, "run", run)
    assert _probe.mac() == _probe.Mac(macos="26.1", processor="Apple M4 Max")
